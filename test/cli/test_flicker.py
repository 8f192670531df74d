import json

import cv2
import numpy as np
import pytest
from fakes import color_image, load_color_segmenter
from typer.testing import CliRunner

import ovs_ros
from ovs_ros.cli.main import app

WALL = color_image([["red", "blue", "red"]])  # 32x96
SLIP = color_image([["red", "green", "red"]])


@pytest.fixture(autouse=True)
def fake_model(monkeypatch):
    monkeypatch.setattr(ovs_ros, "load", load_color_segmenter)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def recording(tmp_path):
    """A camera at rest; in every fifth frame a third of the picture has another colour."""
    folder = tmp_path / "recording"
    folder.mkdir()
    np.savetxt(folder / "intrinsics.txt", [[50, 0, 48], [0, 50, 16], [0, 0, 1]])
    for number in range(12):
        picture = SLIP if number % 5 == 4 else WALL
        name = str(folder / f"{number:04d}")
        cv2.imwrite(f"{name}.color.jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])
        cv2.imwrite(f"{name}.depth.png", np.full((32, 96), 2000, np.uint16))
        np.savetxt(f"{name}.pose.txt", np.eye(4))
    return folder


def test_flicker_is_measured_without_and_with_the_filter(recording, tmp_path):
    result = run(
        "flicker",
        recording,
        *("--words", "red, green, blue", "--json", tmp_path / "r.json"),
        *("--temporal-filter-time", 0.001, "--temporal-filter-time", 0.5),
    )
    assert result.exit_code == 0, result.output
    results = json.loads((tmp_path / "r.json").read_text())
    assert list(results) == [
        "frames",
        "compared_share",
        "flicker",
        "filtered",
        "propagated",
        "miou",
        "ms_per_frame",
        "model",
    ]
    assert results["frames"] == 12 and results["compared_share"] == 1
    assert results["flicker"] == pytest.approx(4 / 11 / 3, abs=0.02)
    ways = {(way["temporal_filter"], way["temporal_filter_time"]): way for way in results["filtered"]}
    assert list(ways) == [("flow", 0.001), ("pose", 0.001), ("flow", 0.5), ("pose", 0.5)]
    assert ways["pose", 0.001]["flicker"] == results["flicker"]
    assert ways["pose", 0.001]["other_than_unfiltered"] == 0
    assert ways["pose", 0.5]["flicker"] == 0
    assert ways["pose", 0.5]["other_than_unfiltered"] == pytest.approx(2 / 12 / 3, abs=0.01)
    assert all(way["ms_per_frame"] > 0 for way in ways.values())


def test_carried_labels_are_compared_with_fresh_ones(recording, tmp_path):
    result = run(
        "flicker",
        recording,
        *("--words", "red, green, blue", "--json", tmp_path / "r.json"),
        *("--distance", 5, "--distance", 1),
    )
    assert result.exit_code == 0, result.output
    results = json.loads((tmp_path / "r.json").read_text())
    ways = {(way["propagate"], way["distance"]): way for way in results["propagated"]}
    assert list(ways) == [(name, distance) for distance in (1, 5) for name in ("off", "flow", "depth")]
    assert results["miou"] is None and ways["flow", 1]["miou"] is None
    assert ways["off", 5]["frames"] == 7 and ways["off", 5]["agreement"] == pytest.approx(1, abs=0.01)
    assert ways["off", 1]["agreement"] == pytest.approx(1 - 4 / 11 / 3, abs=0.02)
    assert ways["depth", 1]["agreement"] == ways["off", 1]["agreement"] and ways["depth", 1]["covered"] == 1
    assert ways["flow", 1]["covered"] < 1, "the picture changed"
    assert all(ways[way, 5]["ms_per_frame"] > 0 for way in ("flow", "depth"))


@pytest.fixture
def labelled(tmp_path):
    """A picture that moves to the left by four pixels a frame, with its labels."""
    for folder in ("image", "label"):
        (tmp_path / "set" / folder).mkdir(parents=True)
    (tmp_path / "set" / "classes.txt").write_text("red\nblue\n")
    noise = np.random.default_rng(0).integers(0, 60, (64, 192, 3)).astype(np.uint8)
    world = np.repeat(color_image([["red", "blue", "red", "blue", "red", "blue"]]), 2, axis=0)
    world = np.where(world > 0, 255 - noise, 0).astype(np.uint8)
    for number in range(5):
        picture = np.ascontiguousarray(world[:, 4 * number : 4 * number + 160])
        cv2.imwrite(str(tmp_path / "set" / "image" / f"{number}.png"), picture[:, :, ::-1])
        cv2.imwrite(str(tmp_path / "set" / "label" / f"{number}.png"), (picture[..., 2] > 0).astype(np.uint8))
    return tmp_path / "set"


def test_carried_labels_are_compared_with_the_truth(labelled, tmp_path):
    result = run("flicker", labelled, "--distance", 3, "--json", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    results = json.loads((tmp_path / "r.json").read_text())
    assert list(results) == ["frames", "propagated", "miou", "ms_per_frame", "model"]
    stale, flow = results["propagated"]
    assert (stale["propagate"], flow["propagate"], flow["frames"]) == ("off", "flow", 2)
    assert results["miou"] > 0.9 and stale["miou"] < flow["miou"] - 0.1
    assert stale["pixel_accuracy"] < flow["pixel_accuracy"]
    assert 0.5 < flow["mean_confidence"] < stale["mean_confidence"] <= 1


def test_images_alone_are_enough(labelled):
    result = run("flicker", labelled / "image", "--words", "red, blue", "--distance", 1)
    assert result.exit_code == 0 and "a fresh decision gives" in " ".join(result.output.split()), (
        result.output
    )


def test_labels_are_the_words(labelled):
    result = run("flicker", labelled, "--words", "red")
    assert result.exit_code == 2 and "has labels" in " ".join(result.output.split())


def test_fewer_frames_may_be_asked_for(recording, tmp_path):
    result = run("flicker", recording, "--words", "red,blue", "--frames", 3, "--json", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    results = json.loads((tmp_path / "r.json").read_text())
    assert results["frames"] == 3 and results["flicker"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "got neither"),
        (["--words", "red", "--temporal-filter-time", 0], "expected a time constant above 0"),
    ],
)
def test_flicker_says_what_is_wrong(recording, arguments, message):
    result = run("flicker", recording, *arguments)
    assert result.exit_code == 2 and message in " ".join(result.output.split())


def test_a_folder_of_something_else(tmp_path):
    result = run("flicker", tmp_path, "--words", "red")
    assert result.exit_code == 2 and "expected images in" in " ".join(result.output.split())


@pytest.mark.parametrize(("more", "shown"), [([], "brown"), (["--temporal-filter", "flow"], "red")])
def test_segment_smooths_a_video_if_asked_to(tmp_path, more, shown):
    words = ["red", "blue", "brown"]
    video = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 15, (96, 32))
    # Red and brown are the same grey, so that only the names change.
    for left in ("red", "red", "red", "brown"):
        video.write(color_image([[left, "blue", "red"]])[:, :, ::-1].copy())
    video.release()
    out = tmp_path / "out"
    result = run("segment", tmp_path / "v.avi", "--words", ",".join(words), "-o", out, *more)
    assert result.exit_code == 0, result.output
    for number, name in ((2, "red"), (3, shown)):
        labels = cv2.imread(str(out / f"v_{number:06d}_labels.png"), cv2.IMREAD_UNCHANGED)
        assert (labels[8:24, 8:24] == words.index(name)).all()


def test_segment_cannot_smooth_by_poses(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), WALL)
    result = run("segment", tmp_path, "--words", "red", "-o", tmp_path / "out", "--temporal-filter", "pose")
    assert result.exit_code == 2 and "expected --temporal-filter off or flow" in " ".join(
        result.output.split()
    )


def test_a_damaged_frame_is_skipped(recording, tmp_path):
    (recording / "0002.color.jpg").write_bytes(b"not an image")
    (recording / "0003.pose.txt").unlink()
    result = run("flicker", recording, "--words", "red, green, blue", "--json", tmp_path / "r.json")
    assert result.exit_code == 1 and "2 skipped" in result.output, result.output
    assert json.loads((tmp_path / "r.json").read_text())["frames"] == 10
