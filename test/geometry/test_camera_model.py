"""CameraModel models against OpenCV's own projection and undistortion."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_ros.geometry.camera_model import CameraModel
from ovs_ros.geometry.points import Intrinsics

SIZE = Intrinsics(fx=420.0, fy=400.0, cx=310.0, cy=250.0, width=640, height=480)
MATRIX = np.array([[420.0, 0, 310], [0, 400, 250], [0, 0, 1]])
NO_TURN = np.zeros(3)


def numbers(low, high):
    return st.floats(low, high)


def lenses(*limits):
    """Coefficients within plus and minus each limit."""
    return st.tuples(*(numbers(-limit, limit) for limit in limits))


PLUMB_BOB = lenses(0.4, 0.2, 0.005, 0.005, 0.1)
RATIONAL = lenses(0.4, 0.2, 0.005, 0.005, 0.1, 0.3, 0.1, 0.05)
FISHEYE = lenses(0.1, 0.05, 0.02, 0.01)
A_LENS = st.sampled_from(["plumb_bob", "rational_polynomial", "equidistant"]).flatmap(
    lambda model: st.tuples(
        st.just(model),
        {"plumb_bob": PLUMB_BOB, "rational_polynomial": RATIONAL, "equidistant": FISHEYE}[model],
    )
)


def grid(reach: float) -> np.ndarray:
    """Points (N, 3) at depths of 1 to 3 m, up to `reach` to the side at a depth of 1."""
    side = np.linspace(-reach, reach, 9)
    rays = np.stack((*np.meshgrid(side, side), np.ones((9, 9))), axis=-1).reshape(-1, 3)
    return (rays * np.linspace(1, 3, 81)[:, None]).astype(np.float32)


def opencv_pixels(model, points, coefficients):
    """Pixels (N, 2) of points (N, 3)."""
    project = cv2.fisheye.projectPoints if model == "equidistant" else cv2.projectPoints
    return project(points[:, None], NO_TURN, NO_TURN, MATRIX, np.array(coefficients))[0].reshape(-1, 2)


@given(A_LENS)
def test_pixels_are_those_of_opencv(lens):
    model, coefficients = lens
    points = grid(0.8)
    pixels = CameraModel(SIZE, model, coefficients).project(points)
    expected = opencv_pixels(model, points.astype(np.float64), coefficients)
    seen = np.isfinite(pixels).all(axis=1)
    assert seen[40]  # the middle
    assert np.abs(pixels - expected)[seen].max() < 0.02


@given(A_LENS)
def test_undistorting_a_seen_point_gives_its_ray_again(lens):
    model, coefficients = lens
    points = grid(2.0)
    pixels = CameraModel(SIZE, model, coefficients).project(points)
    # Within the image: far outside of it, OpenCV's iterations do not converge.
    seen = ((pixels > 0) & (pixels < (640, 480))).all(axis=1)
    library = cv2.fisheye if model == "equidistant" else cv2
    rays = library.undistortPoints(pixels[seen].astype(np.float64)[:, None], MATRIX, np.array(coefficients))
    rays = rays.reshape(-1, 2)
    back = opencv_pixels(model, np.column_stack((rays, np.ones(len(rays)))), coefficients)
    converged = np.abs(back - pixels[seen]).max(axis=1) < 0.01
    assert converged.any()
    found, true = rays[converged], (points[seen, :2] / points[seen, 2:])[converged]
    assert np.abs(found - true).max() < 0.01 * (1 + np.abs(true).max())


@given(A_LENS)
def test_points_farther_out_never_come_back_towards_the_middle(lens):
    model, coefficients = lens
    radial = (*coefficients[:2], 0.0, 0.0, *coefficients[4:]) if model != "equidistant" else coefficients
    tangents = np.geomspace(1e-3, 1e3, 400)
    points = np.stack((tangents, np.zeros(400), np.ones(400)), axis=1).astype(np.float32)
    columns = CameraModel(SIZE, model, radial).project(points)[:, 0]
    seen = np.isfinite(columns)
    assert (seen[1:] <= seen[:-1]).all()
    assert (np.diff(columns[seen]) > -0.01).all()


@pytest.mark.parametrize("model", ["plumb_bob", "rational_polynomial", "equidistant"])
def test_what_is_not_in_front_is_not_seen(model):
    points = np.array(
        [
            [0, 0, -1],
            [0.1, 0.1, -5],
            [0, 0, 0],
            [np.nan, 0, 1],
            [0, np.nan, 1],
            [0, 0, np.nan],
            [np.inf, 0, 1],
            [0, 0, np.inf],
            [0, 0, -np.inf],
            [0, 0, 2],
        ],
        np.float32,
    )
    # A fisheye lens that really sees backwards would need a fold beyond half a turn.
    distortion = (0.0, -0.02) if model == "equidistant" else (-0.2, 0.05)
    pixels = CameraModel(SIZE, model, distortion).project(points)
    assert np.isnan(pixels[:-1]).all()
    assert pixels[-1].tolist() == [310, 250]


def test_a_point_beyond_the_fold_of_a_barrel_lens_is_not_seen():
    camera = CameraModel(SIZE, "plumb_bob", (-0.4,))
    # r (1 - 0.4 r^2) rises up to r = 0.91; at r = 1.5 it is 0.15, well within the image.
    pixels = camera.project(np.array([[0.9, 0, 1], [1.5, 0, 1]], np.float32))
    assert np.isfinite(pixels[0]).all()
    assert np.isnan(pixels[1]).all()


def test_a_fisheye_lens_sees_to_the_side_and_a_little_behind():
    camera = CameraModel(SIZE, "equidistant", ())
    pixels = camera.project(np.array([[1, 0, 0], [0, 1, -0.1]], np.float32))
    assert pixels[0] == pytest.approx((310 + 420 * np.pi / 2, 250), abs=1e-2)
    assert pixels[1] == pytest.approx((310, 250 + 400 * (np.pi / 2 + np.arctan(0.1))), abs=1e-2)


def test_points_are_turned_into_the_camera_of_a_stereo_pair():
    turn, _ = cv2.Rodrigues(np.array([0.02, -0.05, 0.01]))
    points = grid(0.5)
    pixels = CameraModel(SIZE, "plumb_bob", (-0.1, 0.02), tuple(turn.ravel())).project(points)
    back, _ = cv2.Rodrigues(turn.T)
    expected, _ = cv2.projectPoints(
        points.astype(np.float64), back, NO_TURN, MATRIX, np.array([-0.1, 0.02, 0, 0])
    )
    assert pixels == pytest.approx(expected[:, 0], abs=0.01)


def test_more_zeros_than_the_model_has_coefficients_are_none():
    assert CameraModel(SIZE, "rational_polynomial", (0.1,) * 8 + (0.0,) * 6).distorts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "fov"}, "distortion model to be one of plumb_bob.*got 'fov'"),
        ({"distortion": (0.0,) * 5 + (0.1,)}, "at most 5 coefficients"),
        ({"distortion": (np.nan,)}, "finite coefficients"),
        ({"rotation": (0.0,) * 9}, "expected a rotation"),
    ],
)
def test_what_cannot_be_a_camera_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        CameraModel(SIZE, **arguments)
