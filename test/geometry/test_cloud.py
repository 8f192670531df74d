import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_ros.geometry.camera_model import CameraModel
from ovs_ros.geometry.cloud import label_points, moved
from ovs_ros.geometry.points import POINT, POINT_WITH_INTENSITY, Intrinsics, PointProjector

SIZE = Intrinsics(fx=100.0, fy=100.0, cx=2.0, cy=1.0, width=5, height=3)
RGB = np.arange(45, dtype=np.uint8).reshape(3, 5, 3)
LABELS = np.arange(15, dtype=np.uint8).reshape(3, 5)
CONFIDENCE = LABELS + 100


def labelled(points, camera=None, unknown=255, dtype=POINT, labels=LABELS):
    out = np.full(len(points), 77, dtype)
    points = np.asarray(points, np.float32)
    seen = label_points(out, points, camera or CameraModel(SIZE), RGB, labels, CONFIDENCE, unknown)
    assert seen == (out["confidence"] > 0).sum()
    return out


def at(column, row, depth):
    return [(column - 2) * depth / 100, (row - 1) * depth / 100, depth]


def test_a_point_gets_what_its_pixel_has():
    out = labelled([at(3, 2, 1.0), at(0, 0, 7.0), at(4.4, 1.6, 2.0)])
    assert out["label"].tolist() == [13, 0, 14]
    assert out["confidence"].tolist() == [113, 100, 114]
    assert out["rgb"].tolist() == [39 << 16 | 40 << 8 | 41, 0 << 16 | 1 << 8 | 2, 42 << 16 | 43 << 8 | 44]
    assert (out["x"] == 77).all()


@pytest.mark.parametrize(
    "point",
    [
        at(-0.6, 1, 1.0),
        at(4.6, 1, 1.0),
        at(2, -0.6, 1.0),
        at(2, 2.6, 1.0),
        at(2, 1, -1.0),
        [np.nan] * 3,
        [0, 0, np.inf],
        [0, 0, 0],
    ],
)
@pytest.mark.parametrize("unknown", [255, 65535])
def test_what_the_image_does_not_show_is_unknown(point, unknown):
    out = labelled([point, at(2, 1, 1.0)], unknown=unknown)
    assert (out["label"][0], out["confidence"][0], out["rgb"][0]) == (unknown, 0, 0)
    assert out["label"][1] == 7


def test_wide_labels_and_intensity():
    labels = LABELS.astype(np.uint16) * 1000
    out = labelled([at(3, 2, 1.0)], dtype=POINT_WITH_INTENSITY, labels=labels)
    assert out["label"].tolist() == [13000]
    assert out["intensity"].tolist() == [77]
    assert POINT_WITH_INTENSITY.itemsize == 28


def test_a_cloud_without_points():
    assert labelled(np.zeros((0, 3))).size == 0


@given(st.integers(0, 2**32 - 1))
def test_points_made_from_depth_get_the_labels_of_their_pixels(seed):
    random = np.random.default_rng(seed)
    depth = random.uniform(0.1, 50, (3, 5)).astype(np.float32)
    made = np.zeros((3, 5), POINT)
    PointProjector(SIZE).fill(made, depth, RGB, LABELS, CONFIDENCE)
    made = made.reshape(-1)
    out = labelled(np.stack((made["x"], made["y"], made["z"]), axis=1))
    for name in ("rgb", "label", "confidence"):
        assert (out[name] == made[name]).all()


def test_a_bent_image_is_asked_where_it_shows_the_point():
    wide = Intrinsics(fx=100.0, fy=100.0, cx=50.0, cy=50.0, width=101, height=101)
    camera = CameraModel(wide, "plumb_bob", (-0.5,))
    labels = np.zeros((101, 101), np.uint8)
    labels[50, 86] = 9  # 50 + 100 * 0.4 * (1 - 0.5 * 0.16) = 86.8, and 0.38 gives 85.3
    out = np.zeros(2, POINT)
    points = np.array([[0.39, 0, 1], [0.36, 0, 1]], np.float32)
    label_points(out, points, camera, np.zeros((101, 101, 3), np.uint8), labels, labels, 255)
    assert out["label"].tolist() == [9, 0]


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match="expected labels of 5x3 pixels.*got 5x2"):
        labelled([at(0, 0, 1)], labels=LABELS[:2])


def test_points_move_as_the_matrix_says():
    motion = np.array([[0, -1, 0, 10], [1, 0, 0, 20], [0, 0, 1, 30], [0, 0, 0, 1.0]])
    points = np.array([[1, 2, 3], [np.nan, 0, 0]], np.float32)
    found = moved(points, motion)
    assert found.dtype == np.float32
    assert found[0].tolist() == [8, 21, 33]
    assert np.isnan(found[1]).any()
    assert moved(points[:0], motion).shape == (0, 3)
