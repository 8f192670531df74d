"""What the README shows works as it stands there."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from ovs_ros.vocabulary.yaml_io import load_vocabulary

README = (Path(__file__).parents[1] / "README.md").read_text()


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.+?)```", README, re.DOTALL)
    assert found is not None
    return found[1]


def test_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("photo.jpg", np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8))
    exec(block("python"), {})
    assert "(90, 120)" in capsys.readouterr().out


def test_vocabulary_file(tmp_path: Path) -> None:
    path = tmp_path / "words.yaml"
    path.write_text(block("yaml"))
    vocabulary = load_vocabulary(path)
    assert vocabulary.names == ("person", "desk", "office chair")
    assert vocabulary.categories[2].threshold == 0.3
    assert vocabulary.negatives == ("sky", "shadow")
