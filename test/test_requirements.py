"""The versions that are promised are those that are tested."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
ONNX_RUNTIME = "onnxruntime>=1.24.1; python_version >= '3.11'"
"""The first release that reads no file outside of a model's folder."""


def pins(name: str, sign: str) -> dict[str, str]:
    """What a file of requirements says behind `sign`, by package."""
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    found = [re.match(rf"([A-Za-z-]+){sign}([0-9.]+)", line) for line in lines]
    return {match[1]: match[2] for match in found if match}


def promised() -> dict[str, str]:
    """The oldest versions that setup.py allows, by package, on the oldest Python."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    keyword = next(
        node for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "install_requires"
    )
    lines = [text.partition("; ") for text in ast.literal_eval(keyword.value)]
    return dict(text.split(">=") for text, _, marker in lines if ">=" not in marker)


def same(first: str, second: str) -> bool:
    """Whether 1.26 and 1.26.0, or 4.5.4 and 4.5.4.60, name one version."""
    short, long = sorted((first, second), key=len)
    return f"{long}.0.0".startswith(f"{short}.")


def test_the_oldest_versions_are_tested():
    tested = pins("oldest.txt", "==")
    for package, version in promised().items():
        assert same(version, tested[package]), package


def test_a_robot_gets_what_setup_promises():
    for package, version in pins("run.txt", ">=").items():
        assert version == promised()[package], package
    assert ONNX_RUNTIME in (ROOT / "setup.py").read_text()
    assert ONNX_RUNTIME in (ROOT / "requirements" / "run.txt").read_text().splitlines()
