"""Text from outside in messages: cut, so that no message grows with it, and with nothing in it that acts."""

import reprlib
from collections.abc import Iterable

LONGEST = 200
"""Characters of one text from outside in a message."""
_short = reprlib.Repr()
_short.maxstring = _short.maxother = LONGEST


def quoted(value: object) -> str:
    """A value from outside for a message: a text in single quotes, anything else as Python writes it.

    It has at most 200 characters of the value, and says how many a longer text has. What cannot be printed
    (line ends, terminal codes, characters that turn the direction) is escaped.
    """
    if not isinstance(value, str):
        return _cut(_short.repr(value))
    if len(value) > LONGEST:
        return f"'{_printable(value[:LONGEST])}…' ({len(value)} characters)"
    return f"'{_printable(value)}'"


def quoted_list(texts: Iterable[str], shown: int = 10) -> str:
    """Several texts from outside for a message: the first few, and how many more there are."""
    listed = list(texts)
    rest = f" and {len(listed) - shown} more" if len(listed) > shown else ""
    return ", ".join(quoted(text) for text in listed[:shown]) + rest


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
