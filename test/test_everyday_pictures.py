"""The sheet of everyday pictures: what is written, what is said of it, and that the guide says the same."""

import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
from fakes import color_image, color_segmenter
from PIL import Image

import ovs_ros

ROOT = Path(__file__).parents[1]
_spec = spec_from_file_location("everyday_pictures", ROOT / "scripts" / "everyday_pictures.py")
everyday_pictures = module_from_spec(_spec)
_spec.loader.exec_module(everyday_pictures)


def test_the_guide_names_the_words_that_are_asked_for() -> None:
    page = (ROOT / "docs" / "guide" / "everyday.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|", page, re.MULTILINE)
    said = {name: (tuple(there.split(", ")), tuple(absent.split(", "))) for name, there, absent in rows}
    assert said == everyday_pictures.PICTURES and list(said) == list(everyday_pictures.PICTURES)
    assert len(said) == 8


def test_the_sheet_is_written_and_each_picture_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("skimage", reason="scikit-image is not installed (pip install '.[demo]')")
    monkeypatch.setattr(ovs_ros, "load", lambda name, models: color_segmenter())
    file = tmp_path / "sheet.webp"
    everyday_pictures.main(["--output", str(file)])
    assert file.stat().st_size < 200_000
    assert Image.open(file).size == (900, 920)
    rows = re.findall(r"^\| `(\w+)` \|.+\| (.+) \|$", capsys.readouterr().out, re.MULTILINE)
    assert [name for name, _ in rows] == list(everyday_pictures.PICTURES)
    for name, found in rows:
        there, absent = everyday_pictures.PICTURES[name]
        words = {re.sub(r" \d+%.*", "", part) for part in found.split(", ")}
        assert words == {*there, *absent, "unknown"}


def test_shares_and_confidences_are_those_of_the_words() -> None:
    segmenter = color_segmenter()
    words = segmenter.embed(ovs_ros.Vocabulary.from_names(["green", "blue", "red"]))
    result = segmenter.segment(color_image([["red", "red", "red", "blue"]]), words)
    confidence = result.confidence[result.labels == 2].mean() / 255
    found = everyday_pictures.found(result)
    assert found.startswith(f"red 75% ({confidence:.2f}), blue 25% (")
    assert found.endswith(", green 0%, unknown 0%")


def test_a_cell_shows_the_picture_under_the_words_colours() -> None:
    segmenter = color_segmenter()
    image = color_image([["red"], ["blue"]])  # 64 high, 32 wide: 230 by 115 of the cell's 230 by 300.
    result = segmenter.segment(image, segmenter.embed(ovs_ros.Vocabulary.from_names(["red", "blue"])))
    cell = everyday_pictures.cell(image, result)
    assert cell.shape == (230, 450, 3)
    assert (cell[:, :90] == 255).all() and (cell[:, 210:300] == 255).all()
    half = np.array(everyday_pictures.legend_rows(["red", "blue"], {"red": 0.5, "blue": 0.5}, 0)[0][1]) // 2
    np.testing.assert_allclose(cell[5, 100], half + np.array([127, 0, 0]), atol=2)


def test_what_to_install_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(SystemExit, match=r"pip install '\.\[demo\]'"):
        everyday_pictures.read("coffee")
