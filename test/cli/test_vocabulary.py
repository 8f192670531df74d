"""`ovs vocabulary lint`, `show` and `teach`."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fakes import ColorTextEncoder, color_image
from typer.testing import CliRunner, Result

from ovs_ros.cli import vocabulary as command
from ovs_ros.vocabulary.category import Category
from ovs_ros.vocabulary.examples import Example
from ovs_ros.vocabulary.knowledge import Knowledge
from ovs_ros.vocabulary.yaml_io import SHIPPED, load_vocabulary

OFFICE = SHIPPED / "office.yaml"


@pytest.fixture(autouse=True)
def encoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ColorTextEncoder:
    """The text encoder that the command gets; embeddings are kept in a folder of this test."""
    fake = ColorTextEncoder()
    monkeypatch.setattr(command, "text_encoder", lambda: fake)
    known = Knowledge(frozenset({"red", "red thing", "blue"}), frozenset({"cyan"}), {("red", "blue"): 0.4})
    monkeypatch.setattr(command, "knowledge", lambda: known)
    monkeypatch.setenv("OVS_ROS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    return fake


def ovs_vocabulary(*arguments: object) -> Result:
    return CliRunner().invoke(command.app, [str(argument) for argument in arguments])


def results(name: str, path: Path, *, code: int) -> Any:
    """What a command writes as JSON."""
    file = path.with_suffix(".json")
    assert ovs_vocabulary(name, path, "--json", file).exit_code == code
    return json.loads(file.read_text(encoding="utf-8"))


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "words.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_lint_has_nothing_to_say(tmp_path: Path) -> None:
    path = write(tmp_path, "[red]")
    result = ovs_vocabulary("lint", path)
    assert result.exit_code == 0 and "no findings" in result.stdout
    assert results("lint", path, code=0) == []


def test_lint_notes_what_the_model_knows_and_ends_well(tmp_path: Path) -> None:
    notes = results("lint", write(tmp_path, "[red, cyan, yellow, blue]"), code=0)
    assert [(note["kind"], note["names"]) for note in notes] == [
        ("captions", ["cyan"]),
        ("text only", ["yellow"]),
        ("confused", ["red", "blue"]),
    ]
    result = ovs_vocabulary("lint", tmp_path / "words.yaml")
    assert result.exit_code == 0 and "text only" in result.stdout and "no findings but notes" in result.stdout


def test_lint_finds_near_synonyms(tmp_path: Path, encoder: ColorTextEncoder) -> None:
    path = write(tmp_path, "categories: [red, red thing, blue]\nnegatives: [green]")
    finding, note = results("lint", path, code=1)
    assert note["kind"] == "confused"
    assert finding["kind"] == "near synonym" and finding["names"] == ["red", "red thing"]
    result = ovs_vocabulary("lint", path)
    assert result.exit_code == 1 and "near synonym" in result.stdout and "red, red thing" in result.stdout
    assert ovs_vocabulary("lint", path, "--words-only").exit_code == 0
    assert len(encoder.encoded) == 8  # two templates for four words, and the cache for the second run


def test_lint_near_is_a_limit(tmp_path: Path) -> None:
    path = write(tmp_path, "[red, blue]")
    assert ovs_vocabulary("lint", path, "--near", -1).exit_code == 1
    assert ovs_vocabulary("lint", path, "--near", 2).exit_code == 2


def test_lint_lists_all_that_keeps_a_file_from_loading(tmp_path: Path) -> None:
    path = write(tmp_path, "[chair, Chair, '', thing, {name: desk, threshold: 3}]")
    findings = results("lint", path, code=1)
    assert [finding["kind"] for finding in findings] == ["duplicate", "empty", "generic", "refused"]
    assert "line 1: expected each category once" in findings[-1]["message"]


def test_lint_says_what_to_do_without_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise FileNotFoundError("no text_encoder.onnx")

    monkeypatch.setattr(command, "text_encoder", missing)
    result = ovs_vocabulary("lint", write(tmp_path, "[red]"))
    assert result.exit_code == 2
    assert "no text_encoder.onnx" in result.stderr and "--words-only" in result.stderr


@pytest.mark.parametrize("name", ["lint", "show"])
def test_a_bad_file_gives_one_line(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, "categories: [a]\nnegativs: [b]")
    result = ovs_vocabulary(name, path)
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert f"{path}, line 2: expected one of the keys 'categories', 'negatives'" in result.stderr


def test_show_lists_words_with_their_colors(tmp_path: Path) -> None:
    desk = "{name: '[red]desk', prompts: ['a {}', my desk], threshold: 0.25}"
    result = ovs_vocabulary("show", write(tmp_path, f"categories: [chair, {desk}]\nnegatives: [sky]"))
    assert result.exit_code == 0
    for shown in ("chair", "#48e8f8", "[red]desk", "a {}", "my desk", "0.25", "negative words: sky"):
        assert shown in result.stdout
    assert "2 categories; unknown is 255" in result.stdout


def test_show_as_json(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "categories: [chair, {name: b\u00fcro, prompts: ['a {}'], threshold: 0.25}]\nnegatives: [sky]",
    )
    shown = results("show", path, code=0)
    assert shown["version"] == 1 and shown["unknown_id"] == 255 and shown["negatives"] == ["sky"]
    assert shown["categories"][0] == {
        "id": 0,
        "name": "chair",
        "prompts": [],
        "threshold": None,
        "synonyms": [],
        "examples": [],
        "examples_only": False,
        "color": [72, 232, 248],
    }
    assert shown["categories"][1]["name"] == "b\u00fcro" and shown["categories"][1]["threshold"] == 0.25


def test_show_a_shipped_vocabulary() -> None:
    result = ovs_vocabulary("show", OFFICE)
    assert result.exit_code == 0 and "fire extinguisher" in result.stdout


def test_a_shipped_vocabulary_goes_by_its_name() -> None:
    assert ovs_vocabulary("show", "office").stdout == ovs_vocabulary("show", OFFICE).stdout
    assert ovs_vocabulary("lint", "office", "--words-only").exit_code == 0
    for command_name in ("show", "lint"):
        result = ovs_vocabulary(command_name, "ofice")
        assert result.exit_code == 2 and "home, office, street, warehouse" in result.output


def picture(path: Path) -> Path:
    assert cv2.imwrite(str(path), color_image([["red", "blue"]])[..., ::-1])
    return path


def test_teach_makes_a_file_and_adds_examples_to_it(tmp_path: Path) -> None:
    (tmp_path / "shots").mkdir()
    image, words = picture(tmp_path / "shots" / "a.png"), tmp_path / "words.yaml"
    result = ovs_vocabulary("teach", words, "my mug", image, "--box", "32,0,64,32", "--examples-only")
    assert result.exit_code == 0 and "'my mug' has 1 example" in result.stdout
    mask = tmp_path / "mask.png"
    assert cv2.imwrite(str(mask), np.eye(32, 64, dtype=np.uint8))
    assert ovs_vocabulary("teach", words, "My Mug", image, "--mask", mask, "--negative").exit_code == 0
    where = ("--points", "40,3", "--points", "50,9")
    assert ovs_vocabulary("teach", words, "cup", image, *where).exit_code == 0
    mug, cup = load_vocabulary(words).categories
    against = Example(image, mask=mask, negative=True)
    assert mug == Category(
        "my mug", examples=(Example(image, box=(32, 0, 64, 32)), against), examples_only=True, id=0
    )
    assert cup == Category("cup", examples=(Example(image, points=((40, 3), (50, 9))),), id=1)
    assert "image: shots/a.png" in words.read_text(encoding="utf-8")
    shown = results("show", words, code=0)["categories"][0]
    assert shown["examples_only"] and shown["examples"][0] == {"image": "shots/a.png", "box": [32, 0, 64, 32]}


def test_teach_keeps_what_a_file_has(tmp_path: Path) -> None:
    image = picture(tmp_path / "a.png")
    words = write(
        tmp_path, "categories: [{name: mug, prompts: ['a {} of tea'], threshold: 0.2}, red]\nnegatives: [sky]"
    )
    assert ovs_vocabulary("teach", words, "mug", image, "--box", "0,0,9,9").exit_code == 0
    taught = load_vocabulary(words)
    assert taught.names == ("mug", "red") and taught.negatives == ("sky",)
    assert taught.categories[0].prompts == ("a {} of tea",) and taught.categories[0].threshold == 0.2


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (("--box", "0,0,65,1"), "a box inside the image of 64 x 32"),
        (("--box", "0,0,9"), "expected 4 whole numbers with commas between them for --box"),
        (("--points", "a,b"), "expected 2 whole numbers with commas between them for --points"),
        ((), "one of box, mask and points"),
        (("--box", "0,0,1,1", "--negative"), "an example that shows 'mug'"),
    ],
)
def test_teach_refuses_in_one_line_and_leaves_the_file(tmp_path: Path, where: tuple, message: str) -> None:
    words = write(tmp_path, "[red]")
    result = ovs_vocabulary("teach", words, "mug", picture(tmp_path / "a.png"), *where)
    assert result.exit_code == 2 and message in result.stderr
    assert words.read_text(encoding="utf-8") == "[red]"
