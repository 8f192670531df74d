"""`ovs models` on two model files: a small network, and one whose shape only its weights tell."""

import json

from clip_models import open_clip_or_skip
from typer.testing import CliRunner

open_clip_or_skip()

from ovs_ros.cli import models  # noqa: E402
from ovs_ros.cli.main import app  # noqa: E402


def test_models_lists_every_file(tmp_path, monkeypatch):
    (tmp_path / "small.yaml").write_text("model: ViT-B-32\nweights: openai\npatches: 12\n")
    (tmp_path / "other.yaml").write_text("model: radio\nweights: radio.pth.tar\nadaptor: siglip2\n"
                                         "adaptor_model: ViT-SO400M-16-SigLIP2-512\n")  # fmt: skip
    monkeypatch.setattr(models, "MODEL_FILES", tmp_path)
    report = tmp_path / "report.json"
    result = CliRunner().invoke(app, ["models", "--json", str(report)], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "small" in result.output and "other" in result.output and "read off its weights" in result.output
    other, small = json.loads(report.read_text())
    assert small["name"] == "small" and small["parameters"] == 151277313 and small["flops"] > 1e9
    assert (small["height"], small["width"]) == (96, 128) and small["here"] is False
    assert other["name"] == "other" and other["parameters"] is None and other["source"].startswith("https://")


def test_a_broken_file_ends_with_two(tmp_path, monkeypatch):
    (tmp_path / "broken.yaml").write_text("weights: openai\n")
    monkeypatch.setattr(models, "MODEL_FILES", tmp_path)
    result = CliRunner().invoke(app, ["models"])
    assert result.exit_code == 2


def test_frames_are_timed_with_random_weights(tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text("model: ViT-B-32\nweights: openai\npatches: 12\nprecision: fp32\n")
    report = tmp_path / "report.json"
    result = CliRunner().invoke(app, ["models", str(file), "--time", "2", "--json", str(report)])
    assert result.exit_code == 0, result.output
    (row,) = json.loads(report.read_text())
    assert (row["device"], row["precision"]) in {("cpu", "float32"), ("cuda:0", "float32")}
    assert 0 < row["frame_ms"] <= row["frame_p95_ms"]


def test_an_exported_model_is_refused_by_name(tmp_path):
    (tmp_path / "file.yaml").write_text("model: ./exported\n")
    result = CliRunner().invoke(app, ["models", str(tmp_path / "file.yaml")], env={"COLUMNS": "400"})
    assert result.exit_code == 2 and "'ovs bench --model'" in result.output
