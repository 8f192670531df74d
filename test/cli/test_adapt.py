"""`ovs adapt`: what it writes, and what it says of it."""

import json

import cv2
import numpy as np
import pytest
from fakes import color_image, load_color_segmenter
from typer.testing import CliRunner

import ovs_ros
from ovs_ros.cli.main import app
from ovs_ros.vocabulary.templates import POOL
from ovs_ros.vocabulary.yaml_io import load_vocabulary


@pytest.fixture(autouse=True)
def fake_model(monkeypatch):
    monkeypatch.setattr(ovs_ros, "load", load_color_segmenter)


@pytest.fixture
def site(tmp_path):
    """Two frames in red and blue, some of it hard to tell, with labels."""
    folder = tmp_path / "site"
    for name, colors in (("a", ["red", "blue"]), ("b", ["blue", "brown"])):
        (folder / "image").mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(folder / "image" / f"{name}.png"), color_image([colors])[..., ::-1])
    (folder / "label").mkdir()
    for name, row in (("a", [0, 1]), ("b", [1, 255])):
        truth = np.array([row], np.uint8).repeat(32, axis=0).repeat(32, axis=1)
        assert cv2.imwrite(str(folder / "label" / f"{name}.png"), truth)
    (folder / "classes.txt").write_text("red\nblue\ngreen\n")
    return folder


def run(*arguments):
    return CliRunner().invoke(app, ["adapt", *(str(argument) for argument in arguments)])


def test_a_vocabulary_is_written_that_loads(site, tmp_path):
    result = run(
        site / "image", "--words", "red, blue, green", "-o", tmp_path / "site.yaml", "--templates", 3
    )
    assert result.exit_code == 0, result.output
    adapted = load_vocabulary(tmp_path / "site.yaml")
    assert adapted.names == ("red", "blue", "green")
    red, blue, green = adapted.categories
    assert red.prompts == blue.prompts == POOL[:3]  # all templates say the same to this encoder
    assert green.prompts == () and green.threshold is None  # no frame shows it
    assert blue.threshold is None  # always sure
    assert "right of named pixels" not in result.output


def test_what_is_unsure_gets_a_threshold(site, tmp_path):
    """Half of what is called red is brown, which none of the words fits."""
    arguments = [site / "image", "--words", "red, blue, green", "-o", tmp_path / "site.yaml"]
    arguments += ["--negatives", "off"]
    assert run(*arguments, "--precision", 0.9).exit_code == 0
    red = load_vocabulary(tmp_path / "site.yaml").categories[0]
    assert red.threshold is not None and 0.3 < red.threshold < 0.9
    assert run(*arguments, "--precision", 0).exit_code == 0
    assert all(c.threshold is None for c in load_vocabulary(tmp_path / "site.yaml").categories)
    assert run(*arguments, "--precision", 0.9, "--most-unknown", 0).exit_code == 0
    kept = load_vocabulary(tmp_path / "site.yaml").categories[0].threshold
    assert kept is not None and kept < red.threshold


def test_own_prompts_thresholds_and_negatives_stay(site, tmp_path):
    given = tmp_path / "given.yaml"
    given.write_text(
        "categories: [{name: red, prompts: ['my {}'], threshold: 0.25}, blue]\nnegatives: [brown]\n"
    )
    result = run(
        site / "image", "--vocabulary", given, "-o", tmp_path / "site.yaml", "--precision", 0.9,
        "--templates", 8,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    adapted = load_vocabulary(tmp_path / "site.yaml")
    assert adapted.categories[0].prompts == ("my {}",) and adapted.categories[0].threshold == 0.25
    assert len(adapted.categories[1].prompts) == 8 and adapted.negatives == ("brown",)


def test_the_embedded_model_keeps_its_own_templates(site, tmp_path):
    result = run(site, "-o", tmp_path / "site.yaml", "--json", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    assert all(not c.prompts for c in load_vocabulary(tmp_path / "site.yaml").categories)
    assert list(json.loads((tmp_path / "r.json").read_text())["figures"]) == ["before", "thresholds"]


def test_with_labels_it_tells_before_and_after(site, tmp_path):
    cv2.imwrite(str(site / "label" / "b.png"), np.ones((32, 64), np.uint8))  # the brown half is wrong
    result = run(
        site, "-o", tmp_path / "site.yaml", "--precision", 0.9, "--templates", 8,
        "--json", tmp_path / "r.json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert load_vocabulary(tmp_path / "site.yaml").names == ("red", "blue", "green")
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["images"] == 2 and list(report["figures"]) == [
        "before", "templates", "templates and thresholds",
    ]  # fmt: skip
    before, after = report["figures"]["before"], report["figures"]["templates and thresholds"]
    assert before["precision"] == pytest.approx(0.75, abs=0.05) and before["unknown_share"] == 0
    assert after["precision"] > 0.95 and after["unknown_share"] == pytest.approx(0.25, abs=0.05)
    assert after["ece"] < before["ece"] and set(after) == {"miou", "precision", "ece", "unknown_share"}
    assert "right of named pixels" in result.output


def test_classes_that_the_vocabulary_lacks_do_not_count(site, tmp_path):
    result = run(site, "--words", "blue", "-o", tmp_path / "s.yaml", "--json", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "r.json").read_text())["figures"]["before"]["miou"] == 1
    result = run(site, "--words", "yellow", "-o", tmp_path / "s.yaml")
    assert result.exit_code == 2 and "got none of them" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["image"], "expected either --words or --vocabulary, got neither"),
        (["image", "--words", "red", "--vocabulary", "v.yaml"], "got both"),
        (["image", "--words", " , "], "expected at least one category"),
        (["image", "--vocabulary", "none.yaml"], "one of home, office, street, warehouse"),
        (["empty", "--words", "red"], "expected images in"),
        (["nowhere", "--words", "red"], "nowhere"),
    ],
)
def test_it_says_what_is_wrong(site, monkeypatch, arguments, message):
    monkeypatch.chdir(site)
    (site / "empty").mkdir()
    result = run(*arguments, "-o", "site.yaml")
    assert result.exit_code == 2 and message in " ".join(result.output.split())
    assert not (site / "site.yaml").exists()


def test_every_template_takes_a_name_once_and_comes_once():
    assert all(template.count("{}") == 1 for template in POOL)
    assert len(set(POOL)) == len(POOL) >= 60


def test_a_damaged_frame_is_skipped(site, tmp_path):
    (site / "image" / "c.png").write_bytes(b"not an image")
    arguments = ["--words", "red, blue", "-o", tmp_path / "s.yaml", "--json", tmp_path / "r.json"]
    result = run(site / "image", *arguments, "--templates", 3)
    assert result.exit_code == 1 and "1 skipped" in result.output, result.output
    assert json.loads((tmp_path / "r.json").read_text())["images"] == 2
    assert load_vocabulary(tmp_path / "s.yaml").names == ("red", "blue")
