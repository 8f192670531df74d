"""YAML files from outside, within limits."""

from pathlib import Path
from typing import Any

import yaml

from ovs_ros.runtime.files import read_file

MOST_BYTES = 4 << 20
MOST_LEVELS = 20
"""Lists and mappings in each other. A point of an example in a vocabulary lies seven levels deep."""


class PlainLoader(yaml.SafeLoader):
    """Reads YAML without aliases and with few levels.

    A few hundred bytes of aliases can mean billions of values. The time for levels grows with their square,
    up to Python's recursion limit, which mypy and torch raise.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._level = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """As in PyYAML, but that an alias or a level too many is a mistake."""
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(
                None, None, f"the alias *{event.anchor[:40]}; write the values out", event.start_mark
            )
        if self._level > MOST_LEVELS:
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(
                None, None, f"more than {MOST_LEVELS} levels of lists and mappings", mark
            )
        self._level += 1
        node = super().compose_node(parent, index)
        self._level -= 1
        return node


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """A text file in UTF-8, with or without a byte order mark.

    Raises:
        OSError: it is not there, or not a regular file.
        ValueError: it is longer than `most` bytes; UnicodeDecodeError: it is not UTF-8.
    """
    return read_file(path, most).decode("utf-8-sig")
