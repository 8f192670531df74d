"""The tables of docs/guide say what the code does."""

import re
from pathlib import Path

from ovs_ros.ros.parameters import _SPECS

DOCS = Path(__file__).parents[2] / "docs" / "guide" / "parameters.md"


def test_parameters():
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \| (yes)? ?\| .+ \|$", DOCS.read_text(), re.MULTILINE)
    said = {name: (default, changes == "yes") for name, default, changes in rows}
    real = {
        name: (
            str(spec.default).lower() if isinstance(spec.default, bool) else str(spec.default),
            not spec.read_only,
        )
        for name, spec in _SPECS.items()
    }
    assert said == real
