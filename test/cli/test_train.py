"""`ovs train` before anything is trained."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from ovs_ros.cli import train
from ovs_ros.encoders.embedded import MODELS


def test_missing_packages_are_named_with_the_way_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "find_spec", lambda name: None if name == "torch" else object())
    result = CliRunner().invoke(train.app, ["export", "weights.pt"])
    assert result.exit_code == 2
    assert "torch" in result.output and ".[train]" in result.output


def test_encoders_rebuild_to_what_is_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "find_spec", lambda name: object())
    result = CliRunner().invoke(train.app, ["encoders", "--models", str(tmp_path)])
    assert result.exit_code == 0, result.output
    for name in ("image_encoder.onnx", "text_encoder.onnx"):
        assert onnx.load(tmp_path / name) == onnx.load(MODELS / name), name
    assert (tmp_path / "tokenizer.json").read_bytes() == (MODELS / "tokenizer.json").read_bytes()
    np.testing.assert_array_equal(
        np.load(tmp_path / "position_table.npy"), np.load(MODELS / "position_table.npy")
    )
