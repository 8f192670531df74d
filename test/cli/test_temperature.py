"""`ovs temperature`: what it fits, and what it keeps."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from fakes import color_image, color_segmenter
from typer.testing import CliRunner

import ovs_ros
from ovs_ros.cli.main import app
from ovs_ros.encoders.embedded import load_temperature


@pytest.fixture(autouse=True)
def fake_model(monkeypatch):
    segmenter = color_segmenter()
    fitted = replace(segmenter, model=replace(segmenter.model, temperature=7.0))  # must not matter
    monkeypatch.setattr(ovs_ros, "load", lambda name, **arguments: fitted)


def make_set(folder, wrong):
    """Eight sure images, the last `wrong` of each four of them with labels that say something else."""
    (folder / "image").mkdir(parents=True)
    (folder / "label").mkdir()
    for number in range(8):
        cv2.imwrite(str(folder / "image" / f"{number}.png"), color_image([["red", "blue"]])[..., ::-1])
        row = [2, 2] if number // 2 % 4 >= 4 - wrong else [0, 1]
        truth = np.array([row], np.uint8).repeat(32, axis=0).repeat(32, axis=1)
        cv2.imwrite(str(folder / "label" / f"{number}.png"), truth)
    (folder / "classes.txt").write_text("red\nblue\ngreen\n")
    return folder


def run(*arguments):
    return CliRunner().invoke(app, ["temperature", *(str(argument) for argument in arguments)])


def test_an_overconfident_model_gets_a_temperature_that_helps_on_other_images(tmp_path):
    folder = make_set(tmp_path / "some" / "val", wrong=1)
    file = tmp_path / "calibration.json"
    file.write_text('{"quality": {"temperature": 3}}')
    result = run(folder, "--model", "stream", "--output", file)
    assert result.exit_code == 0, result.output
    kept = json.loads(file.read_text())
    assert kept["quality"] == {"temperature": 3}
    fitted = kept["stream"]
    assert fitted["temperature"] > 2 and fitted["images"] == {"some/val": 8} and len(fitted["model"]) == 16
    error = fitted["ece"]["some/val"]
    assert error["before"] == pytest.approx(0.25, abs=0.03) and error["after"] < 0.05
    assert load_temperature("stream", tmp_path) == fitted["temperature"]


def test_sets_are_fitted_together_and_models_apart(tmp_path):
    wrong, right = make_set(tmp_path / "a" / "val", wrong=2), make_set(tmp_path / "b" / "val", wrong=0)
    file = tmp_path / "calibration.json"
    result = run(wrong, right, "--model", "stream", "--model", "quality", "-o", file)
    assert result.exit_code == 0, result.output
    kept = json.loads(file.read_text())
    assert set(kept) == {"stream", "quality"} and set(kept["stream"]["ece"]) == {"a/val", "b/val"}
    alone = tmp_path / "alone.json"
    assert run(wrong, "--model", "stream", "-o", alone).exit_code == 0
    assert kept["stream"]["temperature"] < json.loads(alone.read_text())["stream"]["temperature"]


def test_a_set_needs_images_for_both_halves(tmp_path):
    folder = make_set(tmp_path / "one", wrong=0)
    for image in sorted((folder / "image").iterdir())[1:]:
        image.unlink()
    result = run(folder, "--model", "stream")
    assert result.exit_code == 2 and "expected at least 2 images" in " ".join(result.output.split())
    result = run(tmp_path / "nowhere", "--model", "stream")
    assert result.exit_code == 2 and "expected the folders image and label" in " ".join(result.output.split())


def test_a_damaged_image_is_skipped(tmp_path):
    folder = make_set(tmp_path / "set", wrong=1)
    for name in ("image/2.png", "label/3.png"):
        (folder / name).write_bytes(b"not an image")
    result = run(folder, "--model", "stream", "--model", "quality", "-o", tmp_path / "t.json")
    assert result.exit_code == 1 and "2 skipped" in result.output, result.output
    assert set(json.loads((tmp_path / "t.json").read_text())) == {"stream", "quality"}
