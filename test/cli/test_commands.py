import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from fakes import ColorTextEncoder, SlowColors, color_image, color_segmenter, load_color_segmenter
from typer.testing import CliRunner

import ovs_ros
from ovs_ros.cli import bench, bench_patches
from ovs_ros.cli.main import app
from ovs_ros.model import Model
from ovs_ros.runtime.processor import device_name, processor_name
from ovs_ros.segmenter import Segmenter
from ovs_ros.training import label_spaces
from ovs_ros.training.label_spaces import HoldOut, LabelSpace
from ovs_ros.vocabulary.knowledge import Knowledge
from ovs_ros.vocabulary.vocabulary import Vocabulary

STRIPES = color_image([["red", "blue"]])


@pytest.fixture(autouse=True)
def fake_model(monkeypatch):
    """Commands run with encoders that know colours; models are refused as the real ones are."""

    monkeypatch.setattr(ovs_ros, "load", load_color_segmenter)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def write(path, rgb):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), rgb[..., ::-1] if rgb.ndim == 3 else rgb)


def read(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def test_segment_writes_labels_overlay_and_json(tmp_path):
    write(tmp_path / "in" / "a.png", STRIPES)
    write(tmp_path / "in" / "b.png", STRIPES[:, ::-1])
    out, report = tmp_path / "out", tmp_path / "report.json"
    result = run("segment", tmp_path / "in", "--words", "red, blue", "-o", out, "--json", report)
    assert result.exit_code == 0, result.output
    labels = read(out / "a_labels.png")
    assert labels.dtype == np.uint8 and (labels[:, :32] == 0).all() and (labels[:, 32:] == 1).all()
    assert (read(out / "b_labels.png")[:, :32] == 1).all()
    assert read(out / "a_overlay.png").shape[0] == 256  # Enlarged, so that the legend can be read.
    images = json.loads(report.read_text())["images"]
    assert [image["name"] for image in images] == ["a", "b"]
    assert {entry["name"]: entry["share"] for entry in images[0]["categories"]} == {"red": 0.5, "blue": 0.5}


@pytest.mark.parametrize("postprocess", ["none", "propagation", "pamr"])
def test_segment_and_evaluate_postprocess_as_they_are_told(tmp_path, postprocess, monkeypatch):
    seen = []
    original = Segmenter.segment_batch

    def watched(self, images, words, options=None):
        seen.append((options or self.options).postprocess)
        return original(self, images, words, options)

    monkeypatch.setattr(Segmenter, "segment_batch", watched)
    write(tmp_path / "image" / "a.png", STRIPES)
    write(tmp_path / "label" / "a.png", np.repeat([0, 1], 32)[None].repeat(32, axis=0).astype(np.uint8))
    (tmp_path / "classes.txt").write_text("red\nblue\n")
    report = tmp_path / "report.json"
    result = run(
        *("segment", tmp_path / "image", "--words", "red,blue", "-o", tmp_path / "out", "--json", report),
        *("--postprocess", postprocess),
    )
    assert result.exit_code == 0, result.output
    assert ("postprocess" in json.loads(report.read_text())["images"][0]["stages_ms"]) == (
        postprocess != "none"
    )
    result = run("evaluate", tmp_path, "--postprocess", postprocess, "--json", report)
    assert result.exit_code == 0 and seen == [postprocess] * 2, result.output
    assert json.loads(report.read_text())["miou"] > 0.9


def test_segment_takes_a_vocabulary_file(tmp_path):
    write(tmp_path / "a.png", STRIPES)
    (tmp_path / "words.yaml").write_text("categories: [blue]\nnegatives: [red]\n")
    result = run(
        "segment", tmp_path / "a.png", "--vocabulary", tmp_path / "words.yaml", "-o", tmp_path / "out"
    )
    assert result.exit_code == 0, result.output
    labels = read(tmp_path / "out" / "a_labels.png")
    assert (labels[:, :32] == 255).all() and (labels[:, 32:] == 0).all()


def test_segment_and_evaluate_take_generic_negatives(labelled, tmp_path):
    out = tmp_path / "out"
    result = run("segment", labelled / "image", "--words", "blue", "--negatives", "red,green", "-o", out)
    assert result.exit_code == 0 and "unknown: red, green" in result.output
    assert (read(out / "a_labels.png")[:, :32] == 255).all() and (
        read(out / "a_labels.png")[:, 32:] == 0
    ).all()
    named = {}
    for negatives in ((), ("--negatives", "red,green,yellow")):
        run("evaluate", labelled, "--present-only", *negatives, "--json", tmp_path / "r.json")
        present = json.loads((tmp_path / "r.json").read_text())["present_only"]
        assert present["images"] == 2
        named[present["negatives"]] = present["background_named"], present["miou"]
    # Image b asks for blue alone, and shows red; the labels ignore half of it.
    assert named == {"": (1.0, 0.8333), "red, green, yellow": (0.0, 0.75)}


def test_segment_numbers_the_frames_of_a_video(tmp_path):
    video = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 32))
    for name in ("red", "blue", "red"):
        video.write(color_image([[name] * 2])[:, :, ::-1].copy())
    video.release()
    result = run("segment", tmp_path / "v.avi", "--words", "red,blue", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    labels = [np.median(read(tmp_path / "out" / f"v_00000{i}_labels.png")) for i in range(3)]
    assert labels == [0, 1, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.png"], "expected either --words or --vocabulary, got neither"),
        (["a.png", "--words", "x", "--vocabulary", "f.yaml"], "got both"),
        (["a.png", "--vocabulary", "ofice"], "a YAML file or one of home, office, street, warehouse"),
        (["a.png", "--words", " , "], "expected at least one category"),
        (["nothing.png", "--words", "red"], "there is nothing"),
        (["text.png", "--words", "red"], "cannot be read as one"),
        (["text.mp4", "--words", "red"], "cannot be read as one"),
        (["empty", "--words", "red"], "expected images in"),
        (["a.png", "--words", "red", "--model", "fast"], "expected the model to be one of"),
        (["a.png", "--words", "red", "--threshold", "2"], "expected threshold from 0 to 1"),
        (["a.png", "--words", "red", "--validation", "on"], "expected validation to be one of"),
        (["a.png", "--words", "red", "--postprocess", "crf"], "expected postprocess to be one of none"),
    ],
)
def test_segment_says_what_is_wrong(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.png", STRIPES)
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty").mkdir()
    result = run("segment", *arguments, "-o", "out")
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


@pytest.fixture
def labelled(tmp_path):
    """A set with two images whose truth is half right, under a class file one folder up."""
    folder = tmp_path / "set" / "val"
    write(folder / "image" / "a.png", STRIPES)
    write(folder / "label" / "a.png", np.repeat(np.uint8([[0, 1]]), 32, axis=0).repeat(32, axis=1))
    write(folder / "image" / "b.jpg", color_image([["red", "red"]]))
    write(folder / "label" / "b.png", np.repeat(np.uint8([[1, 255]]), 32, axis=0).repeat(32, axis=1))
    (tmp_path / "set" / "classes.txt").write_text("red\nblue\ngreen\n")
    return folder


@pytest.mark.parametrize("more", [[], ["--no-select"], ["--rule", "top_n", "--theta", "0.9"]])
def test_evaluate_measures_and_writes_what_it_promises(labelled, tmp_path, more):
    result = run("evaluate", labelled, "--json", tmp_path / "r.json", *more)
    assert result.exit_code == 0, result.output
    results = json.loads((tmp_path / "r.json").read_text())
    assert list(results)[:6] == ["miou", "pixel_accuracy", "per_class", "images", "ms_per_image", "model"]
    assert list(results)[6:] == [
        "selection", "ece", "mean_confidence", "names", "device", "peak_memory_mb", "mistaken_for"
    ]  # fmt: skip
    assert results["mistaken_for"] == {"blue": {"red": 0.5}}
    assert "50% red" in result.output
    assert results["per_class"] == {"red": 0.5, "blue": 0.5, "green": None}
    assert results["miou"] == 0.5 and results["pixel_accuracy"] == pytest.approx(2 / 3, abs=1e-4)
    assert results["images"] == 2 and results["ms_per_image"] > 0 and results["model"] == "fake-colours"


def test_evaluate_takes_images_as_examples_and_measures_on_the_others(tmp_path):
    """The names say nothing to the encoder: examples alone can tell them apart."""
    for number, colors in enumerate((["red", "blue"], ["blue", "red"]) * 3):
        write(tmp_path / "image" / f"{number}.png", color_image([colors]))
        truth = color_image([colors])[..., 2] // 255  # 1 where it is blue
        write(tmp_path / "label" / f"{number}.png", truth)
    (tmp_path / "classes.txt").write_text("azure\ncrimson\n")
    result = run("evaluate", tmp_path, "--shots", 2, "--json", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    results = json.loads((tmp_path / "r.json").read_text())
    shots = results["shots"]
    assert shots["shots"] == 2 and shots["example_images"] == 2 and results["images"] == 4
    assert shots["examples_alone"] == 1 and results["miou"] == 1 and shots["words_alone"] < 0.6
    assert "shots: words alone" in result.output


@pytest.fixture
def known(labelled, monkeypatch):
    """`labelled` and two more images: b and d are held out of training, the first class is a union."""
    space = LabelSpace(
        name="colours",
        form="masks",
        terms="",
        commercial=True,
        weight=1,
        hold_out=HoldOut(every=2, together=1),
        classes=("warm", "blue"),
        unions={"warm": ("orange", "red")},
    )
    monkeypatch.setattr(label_spaces, "shipped_label_spaces", lambda: {"colours": space})
    (labelled.parent / "classes.txt").write_text("warm\nblue\n")
    folder = labelled.rename(labelled.with_name("train"))
    write(folder / "image" / "c.png", color_image([["orange", "blue"]]))
    write(folder / "label" / "c.png", np.repeat(np.uint8([[0, 1]]), 32, axis=0).repeat(32, axis=1))
    write(folder / "image" / "d.png", color_image([["red", "blue"]]))
    write(folder / "label" / "d.png", np.repeat(np.uint8([[0, 1]]), 32, axis=0).repeat(32, axis=1))
    return folder


def test_evaluate_takes_held_out_images_and_the_words_of_unions(known, tmp_path):
    result = run("evaluate", known, "--held-out", "--compare-exhaustive", "--json", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    results = json.loads((tmp_path / "r.json").read_text())
    # Image d is right, and of image b, all red, the labelled half is said to be blue.
    assert results["images"] == 2 and results["names"] == 3
    assert results["per_class"] == {"warm": 0.5, "blue": 0.5}
    assert results["mistaken_for"] == {"blue": {"warm": 0.5}}
    assert results["exhaustive"]["kept"] == 1


@pytest.mark.parametrize("flag", [["--shots", "1"], ["--conformal", "0.5"], ["--present-only"]])
def test_evaluate_refuses_unions_where_a_name_has_one_word(known, flag):
    result = run("evaluate", known, "--held-out", *flag)
    assert result.exit_code == 2 and "a set without unions" in " ".join(result.output.split())


def test_evaluate_reads_labels_that_are_painted(labelled, tmp_path):
    # The truth is that of `labelled`, with a colour that is no class where that has 255.
    paints = np.uint8([[128, 0, 0], [0, 0, 128], [0, 0, 0]])  # of red, of blue, of nothing
    for name, values in (("a", [[0, 1]]), ("b", [[1, 2]])):
        image = paints[np.repeat(np.uint8(values), 32, axis=0).repeat(32, axis=1)]
        write(labelled / "color" / f"{name}.png", image.astype(np.uint16) * 257 if name == "b" else image)
    (labelled.parent / "colors.txt").write_text("128 0 0\tred\n0 0 128  blue\n0 128 0 green\n")
    result = run("evaluate", labelled, "--labels", "color", "--json", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    results = json.loads((tmp_path / "r.json").read_text())
    assert results["per_class"] == {"red": 0.5, "blue": 0.5, "green": None}
    assert results["pixel_accuracy"] == pytest.approx(2 / 3, abs=1e-4)


@pytest.mark.parametrize(
    ("colors", "message"),
    [
        ("red\n", "expected R G B from 0 to 255 and a name"),
        ("256 0 0 red\n", "expected R G B from 0 to 255 and a name"),
        ("1 0 0 red\n1 0 0 blue\n", "got some twice"),
    ],
)
def test_evaluate_refuses_a_class_file_without_colours(labelled, colors, message):
    (labelled / "label").rename(labelled / "color")
    (labelled.parent / "colors.txt").write_text(colors)
    result = run("evaluate", labelled, "--labels", "color")
    assert result.exit_code == 2 and message in " ".join(result.output.split())


def test_evaluate_refuses_values_where_colours_should_be(labelled):
    (labelled / "label").rename(labelled / "color")
    (labelled.parent / "colors.txt").write_text("0 0 128 blue\n")
    result = run("evaluate", labelled, "--labels", "color")
    assert result.exit_code == 2 and "expected labels of 8 bit colours" in " ".join(result.output.split())


def test_evaluate_reports_what_selection_keeps(labelled, tmp_path):
    result = run("evaluate", labelled, "--rule", "top_n", "--json", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    # Of image a both names are there and selected; of image b, which shows red alone, the truth says blue.
    selection = json.loads((tmp_path / "r.json").read_text())["selection"]
    assert selection == {"recall": 0.6667, "recall_any": 0.6667, "survivors": 1.5}
    run("evaluate", labelled, "--no-select", "--json", tmp_path / "e.json")
    selection = json.loads((tmp_path / "e.json").read_text())["selection"]
    assert selection == {"recall": 1.0, "recall_any": 1.0, "survivors": 3.0}


def test_evaluate_adds_distractors_that_no_label_has(labelled, tmp_path):
    (tmp_path / "more.txt").write_text("Red\nchair\nyellow\nchair\n")
    result = run("evaluate", labelled, "--distractors", tmp_path / "more.txt", "--json", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    results = json.loads((tmp_path / "r.json").read_text())
    assert results["names"] == 5
    assert results["per_class"] == {"red": 0.5, "blue": 0.5, "green": None}


def test_evaluate_counts_what_a_distractor_wins_as_wrong(labelled, tmp_path):
    (tmp_path / "classes.txt").write_text("red\ngreen\n")
    (tmp_path / "more.txt").write_text("blue\n")
    result = run(
        "evaluate", labelled, "--classes", tmp_path / "classes.txt", "--distractors", tmp_path / "more.txt",
        "--json", tmp_path / "r.json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "r.json").read_text())["per_class"] == {"red": 0.5, "green": 0.0}


def test_evaluate_tells_held_out_words_from_the_others(labelled, tmp_path):
    write(labelled / "label" / "b.png", np.full((32, 64), 255, np.uint8))
    write(labelled / "label" / "a.png", np.repeat(np.uint8([[0, 2]]), 32, axis=0).repeat(32, axis=1))
    (tmp_path / "held.txt").write_text("Green\nlamp\n")
    result = run("evaluate", labelled, "--split-words", tmp_path / "held.txt", "--json", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    results = json.loads((tmp_path / "r.json").read_text())
    assert results["seen"] == {"miou": 1.0, "classes": 1}
    assert results["held_out"] == {"miou": 0.0, "classes": 1}
    (tmp_path / "held.txt").write_text("lamp\n")
    result = run("evaluate", labelled, "--split-words", tmp_path / "held.txt")
    assert result.exit_code == 2 and "got none of them" in " ".join(result.output.split())


def test_evaluate_tells_how_far_confidences_can_be_trusted(labelled, tmp_path):
    result = run("evaluate", labelled, "--json", tmp_path / "r.json")
    # Nearly all pixels are sure, two in three are right.
    assert json.loads((tmp_path / "r.json").read_text())["ece"] == pytest.approx(1 / 3, abs=0.03)
    assert "ece" in result.output


def test_evaluate_writes_what_is_confused(labelled, tmp_path):
    file = tmp_path / "confusions.tsv"
    file.write_text("desk\ttable\t0.400\nblue\tred\t0.900\n")
    result = run("evaluate", labelled, "--confusions", file)
    assert result.exit_code == 0, result.output
    # All of image b is red, a half of it is labelled, as blue.
    assert file.read_text() == "blue\tred\t0.500\ndesk\ttable\t0.400\n"


def test_evaluate_forms_prediction_sets(labelled, tmp_path):
    more = ["--conformal", "0.5", "--json", tmp_path / "r.json"]
    result = run("evaluate", labelled, *more)
    assert result.exit_code == 0, result.output
    sets = json.loads((tmp_path / "r.json").read_text())["conformal"]
    # Image a calibrates and is sure and right; image b is sure and wrong.
    assert sets["alpha"] == 0.5 and sets["images"] == 1 and sets["q"] < 0.01
    assert sets["covered_images"] == 0 and sets["coverage"] == 0 and sets["set_size"] < 1.1
    write(labelled / "label" / "a.png", np.ones((32, 64), np.uint8))
    run("evaluate", labelled, "--conformal", "0.3", "--json", tmp_path / "r.json")
    sets = json.loads((tmp_path / "r.json").read_text())["conformal"]
    assert sets["q"] == 1 and sets["coverage"] == 1 and sets["set_size"] == 3  # too few images to promise it
    for alpha, message in (("1.5", "expected alpha above 0 and below 1"), ("0", "expected alpha")):
        result = run("evaluate", labelled, "--conformal", alpha)
        assert result.exit_code == 2 and message in " ".join(result.output.split())
    result = run("evaluate", labelled, "--conformal", "0.5", "--images", "1")
    assert result.exit_code == 2 and "expected at least 2 images" in " ".join(result.output.split())


def test_evaluate_reads_fine_labels(labelled, tmp_path):
    (tmp_path / "set" / "fine_names.txt").write_text("blue\nunknown\nred\n")
    write(labelled / "fine" / "a.png", np.repeat(np.uint8([[3, 1]]), 32, axis=0).repeat(32, axis=1))
    write(labelled / "fine" / "b.png", np.repeat(np.uint8([[0, 2]]), 32, axis=0).repeat(32, axis=1))
    result = run("evaluate", labelled, "--labels", "fine", "--json", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "r.json").read_text())["per_class"] == {"blue": 1.0, "red": 1.0}


def test_evaluate_takes_some_of_the_images(labelled, tmp_path):
    result = run("evaluate", labelled, "--images", "1", "--json", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    results = json.loads((tmp_path / "r.json").read_text())
    assert results["images"] == 1 and results["per_class"] == {"red": 1.0, "blue": 1.0, "green": None}


def test_evaluate_compares_with_exhaustive_decoding(labelled, tmp_path):
    result = run("evaluate", labelled, "--compare-exhaustive", "--json", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    results = json.loads((tmp_path / "r.json").read_text())
    every = results["exhaustive"]
    assert every["miou"] == results["miou"] == 0.5
    assert every["ms_per_image"] > 0 and every["speedup"] > 0 and every["kept"] == 1
    assert results["selection"]["survivors"] < 3


def test_evaluate_takes_another_class_file(labelled, tmp_path):
    (tmp_path / "swapped.txt").write_text("blue\nred\n")
    result = run("evaluate", labelled, "--classes", tmp_path / "swapped.txt", "--json", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "r.json").read_text())["per_class"] == {"blue": 0, "red": 0.3333}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("label/a.png", None, "expected labels for each image"),
        ("label/a.png", np.full((32, 64), 3, np.uint8), "expected labels below 3"),
        ("label/a.png", np.full((32, 64), 254, np.uint8), "got 254; does it belong to another"),
        (
            "label/a.png",
            np.full((32, 64), 300, np.uint16),
            "expected labels of one channel with values up to 255",
        ),
        ("../classes.txt", None, "expected classes.txt in"),
    ],
)
def test_evaluate_says_what_is_wrong_with_a_set(labelled, file, content, message):
    (labelled / file).unlink()
    if content is not None:
        write(labelled / file, content)
    result = run("evaluate", labelled)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--rule", "best"), "expected rule to be one of dcp, top_n"),
        (("--top-n", "0"), "expected top_n from 1 to 65535"),
        (("--max-categories", "0"), "expected max_categories from 1 to 65535"),
        (("--shortlist", "0"), "expected shortlist from 1 to 65535"),
        (("--validation", "on"), "expected validation to be one of off, relabel, reject"),
        (("--postprocess", "crf"), "expected postprocess to be one of none, pamr, propagation"),
        (("--validation-top-k", "0"), "expected validation_top_k from 1 to 65535"),
        (("--theta", "2"), "expected theta from 0 to 1"),
    ],
)
def test_evaluate_hands_all_options_on(labelled, option, message):
    result = run("evaluate", labelled, *option)
    assert result.exit_code == 2 and message in " ".join(result.output.split())


def test_evaluate_takes_held_out_words_as_unseen(labelled, tmp_path, monkeypatch):
    segmenter = color_segmenter()
    trained = replace(
        segmenter, model=replace(segmenter.model, knowledge=Knowledge(frozenset({"red", "blue"})))
    )
    monkeypatch.setattr(ovs_ros, "load", lambda name, **arguments: trained)
    used = []

    def embed_words(segmenter, vocabulary):
        used.append(segmenter.embed(vocabulary))
        return used[0]

    monkeypatch.setattr("ovs_ros.cli.evaluate.embed_words", embed_words)
    (tmp_path / "held.txt").write_text("Blue\n")
    result = run(
        "evaluate", labelled, "--split-words", tmp_path / "held.txt", "--validate-seen", "--no-network"
    )
    assert result.exit_code == 0, result.output
    assert used[0].seen_names == {"red"}


def test_evaluate_refuses_another_form_of_labels(labelled):
    result = run("evaluate", labelled, "--labels", "coarse")
    assert result.exit_code == 2 and "expected labels to be one of" in " ".join(result.output.split())


def test_evaluate_wants_both_folders(tmp_path):
    result = run("evaluate", tmp_path)
    assert result.exit_code == 2 and "expected the folders image and label" in " ".join(result.output.split())


def test_bench_writes_what_it_promises(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "SIZES", (20, 847))
    result = run("bench", "--json", tmp_path / "b.json")
    assert result.exit_code == 0, result.output
    results = json.loads((tmp_path / "b.json").read_text())
    assert list(results) == ["encoder_ms", "frame_ms", "stages_ms", "p95_ms", "model", "device"]
    assert list(results["p95_ms"]) == ["encoder", "20", "847"]
    assert all(results["p95_ms"][size] >= median for size, median in results["frame_ms"].items())
    assert list(results["frame_ms"]) == ["20", "847"] == list(results["stages_ms"])
    for size, whole in results["frame_ms"].items():
        assert whole > 0 and "select" in results["stages_ms"][size]
    assert results["device"] == device_name("cpu")
    assert processor_name() in " ".join(result.output.split())


def test_bench_tells_time_and_accuracy_by_the_patches(known, tmp_path, monkeypatch):
    encoder = SlowColors(per_patch_s=0.0)
    segmenter = Segmenter(Model(encoder, ColorTextEncoder()))
    monkeypatch.setattr(ovs_ros, "load", lambda *arguments, **options: segmenter)
    monkeypatch.setattr(bench_patches, "PATCHES", (200, 1350))
    monkeypatch.setattr(bench, "draw_scene", lambda: STRIPES)
    files = ["--json", tmp_path / "b.json", "--plot", tmp_path / "b.png"]
    result = run("bench", "--patches", "--frames", "20", "--labelled", known, "--held-out", *files)
    assert result.exit_code == 0, result.output
    results = json.loads((tmp_path / "b.json").read_text())
    assert list(results) == ["patches", "preset", "images", "model", "device"]
    assert list(results["patches"]) == ["200", "768", "1350"] and results["preset"] == 768
    assert results["images"] == {"set/train": 2}
    for one in results["patches"].values():
        assert 0 < one["encoder_ms"] < one["frame_ms"] and one["miou"] == {"set/train": 0.5}
    assert encoder.patches == 768
    assert "768 (own)" in result.output and read(tmp_path / "b.png").shape == (300, 480, 3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--patches"], "fake-colours, whose size is fixed"),
        (["--labelled", "set"], "expected --patches beside --labelled"),
        (["--patches", "--plot", "a.png"], "expected --labelled DIR beside --plot"),
        (["--patches", "--labelled", "set", "--plot", "a.svg"], "PNG file for --plot, got a.svg"),
    ],
)
def test_bench_refuses_flags_that_do_not_go_together(flags, message):
    result = run("bench", *flags)
    assert result.exit_code == 2 and message in " ".join(result.output.split())


def test_bench_says_before_it_times_that_a_model_takes_no_batch(monkeypatch):
    monkeypatch.setattr(bench, "measure", lambda *arguments: pytest.fail("timed first"))
    result = run("bench", "--batch", "8")
    assert result.exit_code == 2 and "expected a torch model for --batch" in result.output


def test_bench_has_names_enough_for_its_largest_vocabulary():
    segmenter: Segmenter = color_segmenter()
    composed = bench.compose_vocabularies(segmenter, bench.SIZES)
    assert [len(words.ids) for words in composed.values()] == list(bench.SIZES)
    assert {20, 150, 847, 5000, 20000} <= set(bench.SIZES)
    nouns = segmenter.embed(Vocabulary.from_names(composed[20].vocabulary.names))
    np.testing.assert_allclose(composed[20].embeddings, nouns.embeddings, atol=1e-5)


def test_help_lists_all_commands():
    result = run("--help")
    assert all(name in result.output for name in ("segment", "evaluate", "bench", "vocabulary", "train"))


LOOKS = ["--attribute-weight", "1"]


def test_segment_knows_words_by_their_looks(tmp_path):
    write(tmp_path / "a.png", STRIPES)
    (tmp_path / "looks.yaml").write_text("thing: {color: red}\n")
    arguments = ["segment", tmp_path / "a.png", "--words", "thing,blue", "-o", tmp_path / "out", *LOOKS]
    result = run(*arguments, "--attributes", tmp_path / "looks.yaml")
    assert result.exit_code == 0, result.output
    assert (read(tmp_path / "out" / "a_labels.png")[:, :32] == 0).all()


def test_evaluate_knows_words_by_their_looks(labelled, tmp_path):
    """Looks that exchange the names of two colours exchange right and wrong pixels."""
    (tmp_path / "looks.yaml").write_text("red: {color: blue}\nblue: {color: red}\n")
    looks = ["--attributes", tmp_path / "looks.yaml", *LOOKS]
    for arguments, accuracy in (([], 2 / 3), (looks, 1 / 3)):
        result = run("evaluate", labelled, "--json", tmp_path / "r.json", *arguments)
        assert result.exit_code == 0, result.output
        got = json.loads((tmp_path / "r.json").read_text())["pixel_accuracy"]
        assert got == pytest.approx(accuracy, abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--attributes", "shiped"], "did you mean 'shipped'"),
        (["--attribute-weight", "2"], "expected attribute_weight from 0 to 1"),
        (["--second-encoder", "e.onnx"], "got the encoder alone"),
        (["--second-encoder", "e.onnx", "--fusion", "f.npz"], "expected fusion weights at f.npz"),
    ],
)
def test_settings_of_looks_and_fusion_are_checked(labelled, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    for command in (["evaluate", labelled], ["segment", labelled / "image", "--words", "red", "-o", "out"]):
        result = run(*command, *arguments)
        assert result.exit_code == 2 and message in " ".join(result.output.split()), result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("segment", "--alpha", "much", "photo.jpg"),
        ("segment",),
        ("bench", "--no-such-flag"),
        ("no-such-command",),
        ("vocabulary", "lint"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_code_2(arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.output.count("\n") == 1 and result.output.startswith("Error: ")
    assert "--help" in result.output
