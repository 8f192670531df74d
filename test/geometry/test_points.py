import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_ros.geometry.points import POINT, Intrinsics, PointProjector

CAMERA = Intrinsics(fx=100.0, fy=50.0, cx=1.0, cy=2.0, width=4, height=3)


def filled(depth, rgb=None, labels=None, confidence=None):
    out = np.zeros((3, 4), POINT)
    PointProjector(CAMERA).fill(
        out,
        depth,
        np.zeros((3, 4, 3), np.uint8) if rgb is None else rgb,
        np.zeros((3, 4), np.uint8) if labels is None else labels,
        np.zeros((3, 4), np.uint8) if confidence is None else confidence,
    )
    return out


def test_a_pixel_lies_where_the_pinhole_model_says():
    points = filled(np.full((3, 4), 2.0, np.float32))
    point = points[0, 3]  # u = 3, v = 0
    assert (point["x"], point["y"], point["z"]) == (
        np.float32((3 - 1) * 2 / 100),
        np.float32((0 - 2) * 2 / 50),
        2,
    )


def test_without_depth_all_three_coordinates_are_nan():
    depth = np.ones((3, 4), np.float32)
    depth[1, 2] = np.nan
    points = filled(depth)
    hole = np.zeros((3, 4), bool)
    hole[1, 2] = True
    for name in "xyz":
        assert (np.isnan(points[name]) == hole).all()


def test_colour_label_and_confidence_of_each_pixel_go_along():
    rgb = np.zeros((3, 4, 3), np.uint8)
    rgb[2, 1] = (0x12, 0x34, 0x56)
    labels = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    confidence = np.arange(12, dtype=np.uint8).reshape(3, 4)
    points = filled(np.ones((3, 4), np.float32), rgb, labels, confidence)
    assert points["rgb"][2, 1] == 0x00123456
    assert (points["label"] == labels).all()
    assert (points["confidence"] == confidence).all()


def test_the_layout_is_24_bytes_little_endian():
    points = filled(np.ones((3, 4), np.float32), labels=np.full((3, 4), 0x0102, np.uint16))
    raw = points.view(np.uint8).reshape(3, 4, 24)
    assert raw[0, 0, 8:12].tobytes() == b"\x00\x00\x80\x3f"
    assert raw[0, 0, 16:20].tolist() == [2, 1, 0, 0]


@given(st.floats(0.125, 100, width=32), st.integers(0, 3), st.integers(0, 2))
def test_projecting_a_point_back_gives_its_pixel(z, u, v):
    point = filled(np.full((3, 4), z, np.float32))[v, u]
    assert point["x"] / z * CAMERA.fx + CAMERA.cx == pytest.approx(u, abs=1e-4)
    assert point["y"] / z * CAMERA.fy + CAMERA.cy == pytest.approx(v, abs=1e-4)


def test_arrays_of_another_size_are_refused():
    with pytest.raises(ValueError, match="expected depth of 4x3 pixels.*got 3x4"):
        filled(np.ones((4, 3), np.float32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fx": float("nan")}, "finite"),
        ({"cy": float("inf")}, "finite"),
        ({"fx": 0.0}, "above 0"),
        ({"fy": -1.0}, "above 0"),
        ({"width": 0}, "size"),
    ],
)
def test_intrinsics_that_no_camera_has_are_refused(change, message):
    values = {"fx": 1.0, "fy": 1.0, "cx": 0.0, "cy": 0.0, "width": 2, "height": 2} | change
    with pytest.raises(ValueError, match=message):
        Intrinsics(**values)
