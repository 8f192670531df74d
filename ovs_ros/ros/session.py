"""Tells one run of the node from the next."""

import secrets

SESSION = secrets.token_hex(4)
"""Another one in each process: what was said of versions and ids under another session no longer holds."""
