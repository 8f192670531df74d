"""Folders as they are: damaged and hidden files, stems and names that are alike, masks of all kinds."""

import json
import os
import resource
import subprocess
import sys
import unicodedata

import cv2
import numpy as np
import pytest
from fakes import ColorTextEncoder, TogetherImageEncoder, color_image, load_color_segmenter
from PIL import Image
from typer.testing import CliRunner

import ovs_ros
from ovs_ros.cli.main import app
from ovs_ros.model import Model
from ovs_ros.segmenter import Segmenter

STRIPES = color_image([["red", "blue"]])


@pytest.fixture(autouse=True)
def fake_model(monkeypatch):
    monkeypatch.setattr(ovs_ros, "load", load_color_segmenter)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, image[..., ::-1] if image.ndim == 3 else image)[1].tobytes())


def segment(folder, out, *more):
    return run("segment", folder, "--words", "red, blue", "-o", out, *more)


def test_a_damaged_image_is_skipped_named_and_told_by_the_exit_status(tmp_path):
    for name in ("0.png", "2.png"):
        write(tmp_path / "in" / name, STRIPES)
    (tmp_path / "in" / "1.png").write_bytes(b"not an image")
    result = segment(tmp_path / "in", tmp_path / "out", "--json", tmp_path / "r.json")
    assert result.exit_code == 1 and "1.png" in result.output and "1 skipped" in result.output
    assert [image["name"] for image in json.loads((tmp_path / "r.json").read_text())["images"]] == ["0", "2"]


def test_images_are_encoded_together_where_the_model_gains_from_it(tmp_path, monkeypatch):
    encoder = TogetherImageEncoder()
    segmenter = Segmenter(Model(encoder, ColorTextEncoder()))
    monkeypatch.setattr(ovs_ros, "load", lambda name, **options: segmenter)
    shown = [["red", "blue"][number % 2] for number in range(10)]
    for number, color in enumerate(shown):
        write(tmp_path / "in" / f"{number}.png", color_image([[color]]))
    assert segment(tmp_path / "in", tmp_path / "out", "--json", tmp_path / "r.json").exit_code == 0
    assert encoder.batches == [8, 2]
    images = json.loads((tmp_path / "r.json").read_text())["images"]
    assert [image["name"] for image in images] == [str(number) for number in range(10)]
    assert [image["categories"][0]["name"] for image in images] == shown


def test_hidden_files_are_no_images(tmp_path):
    write(tmp_path / "in" / "photo.jpg", STRIPES)
    (tmp_path / "in" / "._photo.jpg").write_bytes(bytes(100))
    assert segment(tmp_path / "in", tmp_path / "out").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "photo_labels.png",
        "photo_overlay.png",
    ]


def test_images_of_one_stem_have_results_of_their_own(tmp_path):
    for name in ("a.jpg", "a.png", "b.PNG"):
        write(tmp_path / "in" / name, STRIPES)
    assert segment(tmp_path / "in", tmp_path / "out").exit_code == 0
    names = {path.name for path in (tmp_path / "out").glob("*_labels.png")}
    assert names == {"a.jpg_labels.png", "a.png_labels.png", "b_labels.png"}


def test_results_do_not_go_among_the_images(tmp_path):
    write(tmp_path / "in" / "a.png", STRIPES)
    result = segment(tmp_path / "in", tmp_path / "in")
    assert result.exit_code == 2 and "expected another folder" in result.output
    assert len(list((tmp_path / "in").iterdir())) == 1


def labelled(tmp_path, mask, name="a"):
    write(tmp_path / "image" / f"{name}.png", STRIPES)
    (tmp_path / "label").mkdir(exist_ok=True)
    mask.save(tmp_path / "label" / f"{name}.png")
    (tmp_path / "classes.txt").write_text("red\nblue\n")
    result = run("evaluate", tmp_path, "--json", tmp_path / "r.json")
    return result, json.loads((tmp_path / "r.json").read_text()) if (tmp_path / "r.json").exists() else None


TRUTH = np.repeat([0, 1], 32)[None].repeat(32, axis=0)


@pytest.mark.parametrize("kind", ["grey", "palette", "1 bit", "16 bit"])
def test_masks_of_class_indices_are_read_however_they_are_stored(tmp_path, kind):
    mask = Image.fromarray(TRUTH.astype(np.uint8))
    if kind == "palette":
        mask.putpalette([0, 0, 0, 128, 0, 0] + [0] * 762)
    elif kind == "1 bit":
        mask = Image.fromarray(TRUTH.astype(bool))
    elif kind == "16 bit":
        mask = Image.fromarray(TRUTH.astype(np.uint16))
    result, report = labelled(tmp_path, mask)
    assert result.exit_code == 0, result.output
    assert report["miou"] > 0.9


def test_masks_of_0_and_255_are_refused(tmp_path):
    result, report = labelled(tmp_path, Image.fromarray((TRUTH * 255).astype(np.uint8)))
    assert result.exit_code == 2 and report is None
    assert "0 and 255 alone" in " ".join(result.output.split())


@pytest.mark.parametrize("damaged", ["image/b.png", "label/b.png"])
def test_evaluate_skips_what_is_damaged_or_of_another_size(tmp_path, damaged):
    write(tmp_path / "image" / "b.png", STRIPES)
    write(tmp_path / "image" / "c.png", STRIPES)
    write(tmp_path / "label" / "b.png", TRUTH.astype(np.uint8))
    write(tmp_path / "label" / "c.png", np.zeros((3, 3), np.uint8))
    (tmp_path / damaged).write_bytes(b"not an image")
    result, report = labelled(tmp_path, Image.fromarray(TRUTH.astype(np.uint8)))
    output = " ".join(result.output.split())
    assert result.exit_code == 1 and "b.png" in output and "expected labels of shape (32, 64)" in output
    assert "2 skipped" in output and report["images"] == 1 and report["miou"] > 0.9


def test_large_16_bit_values_are_refused(tmp_path):
    result, _ = labelled(tmp_path, Image.fromarray((TRUTH * 300).astype(np.uint16)))
    assert result.exit_code == 2 and "got 300" in " ".join(result.output.split())


def test_composed_and_decomposed_names_are_one(tmp_path):
    write(tmp_path / "image" / (unicodedata.normalize("NFD", "k\u00fcche") + ".png"), STRIPES)
    write(tmp_path / "label" / "k\u00fcche.png", TRUTH.astype(np.uint8))
    (tmp_path / "classes.txt").write_text("red\nblue\n")
    assert run("evaluate", tmp_path).exit_code == 0


@pytest.mark.parametrize("words", ["red\uff0c blue", "red; blue", "red . blue", "red | blue"])
def test_lists_are_split_however_they_are_written(tmp_path, words):
    write(tmp_path / "a.png", STRIPES)
    result = run(
        "segment", tmp_path / "a.png", "--words", words, "-o", tmp_path, "--json", tmp_path / "r.json"
    )
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "r.json").read_text())["images"][0]["categories"]
    assert {entry["name"] for entry in found} == {"red", "blue"}


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_pipe_without_utf8_gets_escapes(tmp_path, encoding):
    (tmp_path / "v.yaml").write_text("- T\u00fcr\n- \u6905\u5b50\n", encoding="utf-8")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from ovs_ros.cli.main import app; app()",
            "vocabulary",
            "show",
            tmp_path / "v.yaml",
        ],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert b"\\u6905" in done.stdout


@pytest.mark.fault(
    "a full disk, or links in the output folder", "files are whole or as before; links are replaced"
)
def test_a_full_disk_ends_the_command_with_one_line_and_no_cut_file(tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    write(source / "a.png", np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limit[1]))
    try:
        result = run("segment", source, "-o", output, "--words", "red, green")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1 and "a_overlay.png" in result.stderr
    assert [path.name for path in output.iterdir()] == ["a_labels.png"]


@pytest.mark.fault(
    "a full disk, or links in the output folder", "files are whole or as before; links are replaced"
)
def test_links_in_the_output_folder_are_replaced(tmp_path):
    (tmp_path / "precious").write_bytes(b"kept")
    (tmp_path / "out").mkdir()
    for name in ("a_labels.png", "a_overlay.png"):
        (tmp_path / "out" / name).symlink_to(tmp_path / "precious")
    write(tmp_path / "a.png", np.zeros((32, 32, 3), np.uint8))
    (tmp_path / "r.json").symlink_to(tmp_path / "precious")
    arguments = ("segment", tmp_path / "a.png", "-o", tmp_path / "out", "--words", "red")
    assert run(*arguments, "--json", tmp_path / "r.json").exit_code == 0
    assert (tmp_path / "precious").read_bytes() == b"kept"
    assert not any(path.is_symlink() for path in ((tmp_path / "out").iterdir()))
