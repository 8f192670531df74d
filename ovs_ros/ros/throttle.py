"""Warnings that do not flood the log."""

from collections.abc import Callable
from time import monotonic


class Throttle:
    """Logs one warning of each kind in a while; the next one says how many were left out.

    rclpy throttles by the line of code, so that two kinds that are logged by one line would hide each other.

    Args:
        log: called with the text.
    """

    def __init__(self, log: Callable[[str], object]) -> None:
        self._log = log
        self._since: dict[str, float] = {}
        self._held_back: dict[str, int] = {}

    def warn(self, kind: str, text: str, seconds: float = 10.0) -> None:
        """Log `text`, unless something of this `kind` was logged in the last `seconds`."""
        now = monotonic()
        if kind in self._since and now - self._since[kind] < seconds:
            self._held_back[kind] = self._held_back.get(kind, 0) + 1
            return
        more = self._held_back.pop(kind, 0)
        self._since[kind] = now
        self._log(f"{text} ({more} more since the last such warning)" if more else text)
