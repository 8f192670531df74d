"""YAML files from outside, within limits."""

from pathlib import Path
from typing import Any

import yaml

from ovs_ros.runtime.files import read_file

MOST_BYTES = 4 << 20


class PlainLoader(yaml.SafeLoader):
    """Reads YAML without aliases: a few hundred bytes of them can mean billions of values."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """As in PyYAML, but that an alias is a mistake."""
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(
                None, None, f"the alias *{event.anchor[:40]}; write the values out", event.start_mark
            )
        return super().compose_node(parent, index)


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """A text file in UTF-8, with or without a byte order mark.

    Raises:
        OSError: it is not there, or not a regular file.
        ValueError: it is longer than `most` bytes; UnicodeDecodeError: it is not UTF-8.
    """
    return read_file(path, most).decode("utf-8-sig")
