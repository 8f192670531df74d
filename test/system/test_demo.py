"""The demonstration from camera to files: three processes, real DDS, the embedded model."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

FRAMES = 24
DEADLINE_S = 240


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ovs_ros.ros.demo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    result = demo(
        *("--output", str(folder), "--frames", str(FRAMES)),
        *("--words", "motorcycle, floor, wall, shelf", "--then", "floor, bench, motorcycle"),
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (folder / "stdout").write_text(result.stdout)
    return folder


def test_the_motorcycle_is_found_where_it_stands(output):
    names = {
        name: int(label) for label, name in json.loads((output / "label_names.json").read_text()).items()
    }
    labels = cv2.imread(str(output / "labels_v1.png"), cv2.IMREAD_UNCHANGED)
    assert labels.shape == (480, 640) and labels.dtype == np.uint8
    assert set(np.unique(labels)) <= {
        *(names[name] for name in ("motorcycle", "floor", "wall", "shelf")),
        255,
    }
    # Wherever the view moves, the motorcycle fills the middle.
    assert (labels[160:320, 200:440] == names["motorcycle"]).mean() > 0.5


def test_ids_keep_their_meaning_over_the_change(output):
    names = json.loads((output / "label_names.json").read_text())
    # Ids 0 to 3 from the first vocabulary; "bench" is new and gets the next.
    assert names == {"0": "motorcycle", "1": "floor", "2": "wall", "3": "shelf", "4": "bench"}
    labels = cv2.imread(str(output / "labels_v2.png"), cv2.IMREAD_UNCHANGED)
    assert set(np.unique(labels)) <= {0, 1, 4, 255}


def test_points_carry_labels_and_metres(output):
    header, _, body = (output / "points_v1.ply").read_bytes().partition(b"end_header\n")
    lines = header.decode().splitlines()
    assert "comment label 0 motorcycle" in lines
    count = next(int(line.split()[-1]) for line in lines if line.startswith("element vertex"))
    kinds = {"float": "<f4", "uchar": "u1", "ushort": "<u2"}
    properties = [line.split()[1:] for line in lines if line.startswith("property")]
    points = np.frombuffer(body, [(name, kinds[kind]) for kind, name in properties])
    assert len(points) == count > 0.8 * 640 * 480
    # The pair's published calibration puts the scene between 2.1 and 5.1 metres away.
    assert points["z"].min() > 2.0 and points["z"].max() < 5.2
    motorcycle = points[points["label"] == 0]
    assert len(motorcycle) > 0.1 * len(points)
    assert np.median(motorcycle["z"]) < np.median(points["z"][points["label"] == 2])


def test_the_pictures_can_be_opened(output):
    with Image.open(output / "stream.webp") as animation:
        assert animation.n_frames == len(list(output.glob("overlay_*.jpg"))) >= FRAMES // 4


def test_the_table_tells_of_both_vocabularies(output):
    text = (output / "stdout").read_text()
    for words in ("frames in", "frames dropped", "camera to label image", "encode", "version 1", "version 2"):
        assert words in text


def test_a_process_that_dies_is_reported_with_its_log(tmp_path):
    result = demo("--source", str(tmp_path / "nothing here"), "--output", str(tmp_path / "out"))
    assert result.returncode == 1
    assert "the camera ended too early" in result.stderr
    assert "no such file or folder" in result.stderr
