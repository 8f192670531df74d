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
from ovs_ros.training import label_spaces
from ovs_ros.training.label_spaces import HoldOut, LabelSpace


@pytest.fixture(autouse=True)
def fake_model(monkeypatch):
    segmenter = color_segmenter()
    fitted = replace(segmenter, model=replace(segmenter.model, temperature=7.0))  # must not matter
    monkeypatch.setattr(ovs_ros, "load", lambda name, **arguments: fitted)


def make_set(folder, wrong, images=8):
    """Sure images, the last `wrong` of each eight, by twos, with labels that say something else."""
    (folder / "image").mkdir(parents=True)
    (folder / "label").mkdir()
    for number in range(images):
        cv2.imwrite(str(folder / "image" / f"{number:02}.png"), color_image([["red", "blue"]])[..., ::-1])
        row = [2, 2] if number // 2 % 4 >= 4 - wrong else [0, 1]
        truth = np.array([row], np.uint8).repeat(32, axis=0).repeat(32, axis=1)
        cv2.imwrite(str(folder / "label" / f"{number:02}.png"), truth)
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


def test_sets_weigh_the_same_whatever_their_number_of_images(tmp_path):
    wrong, few = make_set(tmp_path / "a" / "val", wrong=2), make_set(tmp_path / "b" / "val", wrong=0)
    many = make_set(tmp_path / "c" / "val", wrong=0, images=24)
    found = []
    for number, right in enumerate((few, many)):
        file = tmp_path / f"{number}.json"
        assert run(wrong, right, "--model", "stream", "-o", file).exit_code == 0
        found.append(json.loads(file.read_text())["stream"]["temperature"])
    assert found[0] == pytest.approx(found[1], rel=1e-3)


def test_a_set_apart_is_measured_and_not_fitted_to(tmp_path):
    fitted, apart = make_set(tmp_path / "a" / "val", wrong=1), make_set(tmp_path / "b" / "val", 0, images=1)
    alone, file = tmp_path / "alone.json", tmp_path / "both.json"
    assert run(fitted, "--model", "stream", "-o", alone).exit_code == 0
    result = run(fitted, "--apart", apart, "--model", "stream", "-o", file)
    assert result.exit_code == 0, result.output
    assert "b/val, apart" in result.output
    both = json.loads(file.read_text())["stream"]
    assert both["temperature"] == json.loads(alone.read_text())["stream"]["temperature"]
    assert both["apart"] == ["b/val"] and both["images"] == {"a/val": 8, "b/val": 1}
    # Its only image is sure and right: it would be one to fit to, and none would be left to measure.
    assert both["ece"]["b/val"]["before"] < 0.05


def known(monkeypatch, **fields):
    """A set that `ovs train embedded` is made to know, with the classes of `make_set`."""
    space = LabelSpace(
        name="colours",
        form="masks",
        terms="",
        commercial=True,
        weight=1,
        classes=("red", "blue", "green"),
        **fields,
    )
    monkeypatch.setattr(label_spaces, "shipped_label_spaces", lambda: {"colours": space})


def test_only_images_that_are_not_trained_on_count(tmp_path, monkeypatch):
    known(monkeypatch, hold_out=HoldOut(every=2, together=4))
    folder = make_set(tmp_path / "colours" / "train", wrong=0)
    for number in range(4):  # They would be wrong, and are trained on.
        cv2.imwrite(str(folder / "label" / f"{number:02}.png"), np.full((32, 64), 2, np.uint8))
    file = tmp_path / "t.json"
    result = run(folder, "--held-out", "--model", "stream", "-o", file)
    assert result.exit_code == 0, result.output
    fitted = json.loads(file.read_text())["stream"]
    assert fitted["images"] == {"colours/train": 4} and fitted["ece"]["colours/train"]["before"] < 0.05


def test_images_of_a_set_that_is_trained_on_whole_or_not_known_are_refused(tmp_path, monkeypatch):
    folder = make_set(tmp_path / "colours" / "train", wrong=0)
    result = run(folder, "--held-out", "--model", "stream")
    assert result.exit_code == 2 and "that `ovs train embedded` knows" in " ".join(result.output.split())
    known(monkeypatch)
    result = run(folder, "--held-out", "--model", "stream")
    assert result.exit_code == 2 and "that are not trained on" in " ".join(result.output.split())
    folder.rename(folder.with_name("val"))
    assert run(folder.with_name("val"), "--held-out", "--model", "stream").exit_code == 0


def test_a_union_is_right_where_any_of_its_words_wins(tmp_path, monkeypatch):
    known(monkeypatch, unions={"red": ("azure", "red"), "blue": ("crimson", "blue"), "green": ("olive",)})
    file = tmp_path / "t.json"
    result = run(make_set(tmp_path / "a" / "val", wrong=0), "--model", "stream", "-o", file)
    assert result.exit_code == 0, result.output
    assert json.loads(file.read_text())["stream"]["ece"]["a/val"]["before"] < 0.05


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
    for name in ("image/02.png", "label/03.png"):
        (folder / name).write_bytes(b"not an image")
    result = run(folder, "--model", "stream", "--model", "quality", "-o", tmp_path / "t.json")
    assert result.exit_code == 1 and "2 skipped" in result.output, result.output
    assert set(json.loads((tmp_path / "t.json").read_text())) == {"stream", "quality"}
