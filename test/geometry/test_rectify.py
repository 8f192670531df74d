import cv2
import numpy as np
import pytest

from ovs_ros.geometry.camera_model import CameraModel
from ovs_ros.geometry.points import Intrinsics
from ovs_ros.geometry.rectify import Rectification, displacement

TAKEN = Intrinsics(fx=300.0, fy=310.0, cx=165.0, cy=118.0, width=320, height=240)
TARGET = Intrinsics(fx=280.0, fy=280.0, cx=160.0, cy=120.0, width=320, height=240)
TURN, _ = cv2.Rodrigues(np.array([0.01, 0.03, -0.02]))
LENSES = [
    ("plumb_bob", (-0.25, 0.08, 0.001, -0.002, 0.0)),
    ("rational_polynomial", (0.3, 0.05, 0.001, 0.001, 0.01, 0.5, 0.1, 0.02)),
    ("equidistant", (-0.02, 0.01, -0.003, 0.001)),
]


def matrix(camera):
    return np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]])


@pytest.mark.parametrize(("model", "distortion"), LENSES)
def test_the_warp_is_opencvs(model, distortion):
    camera = CameraModel(TAKEN, model, distortion, tuple(TURN.ravel()))
    rectification = Rectification.of(camera, TARGET)
    library = cv2.fisheye if model == "equidistant" else cv2
    x, y = library.initUndistortRectifyMap(
        matrix(TAKEN), np.array(distortion), TURN, matrix(TARGET), (320, 240), cv2.CV_32FC1
    )
    inside = ~rectification.outside
    assert inside.mean() > 0.8
    assert np.abs(rectification.warp.x - x)[inside].max() < 0.01
    assert np.abs(rectification.warp.y - y)[inside].max() < 0.01
    assert (rectification.outside == ((x < -0.5) | (x >= 319.5) | (y < -0.5) | (y >= 239.5))).mean() > 0.999


def test_a_straight_line_is_straight_again():
    camera = CameraModel(TAKEN, "plumb_bob", (-0.25, 0.08))
    line = np.stack((np.full(200, 0.4), np.linspace(-0.3, 0.3, 200), np.ones(200)), axis=1).astype(np.float32)
    bent = np.zeros((240, 320, 3), np.uint8)
    cv2.polylines(bent, [np.rint(camera.project(line)).astype(np.int32)], False, (255, 255, 255), 2)
    straight = Rectification.of(camera, TARGET).image(bent)[..., 0]
    rows, columns = np.nonzero(straight > 128)
    assert np.ptp(rows) > 140
    assert np.abs(columns - (0.4 * 280 + 160)).max() <= 2


def test_depth_takes_the_nearest_pixel_and_is_nan_outside():
    camera = CameraModel(
        TAKEN, "plumb_bob", (0.3, 0.1)
    )  # A pincushion lens leaves no corner unseen but the far ones.
    wide = Intrinsics(fx=140.0, fy=140.0, cx=160.0, cy=120.0, width=320, height=240)
    rectification = Rectification.of(camera, wide)
    metres = np.where(np.arange(320) < 160, 1.0, 5.0).astype(np.float32) * np.ones((240, 1), np.float32)
    depth = rectification.depth(metres)
    assert rectification.outside.any()
    assert (np.isnan(depth) == rectification.outside).all()
    assert set(np.unique(depth[~rectification.outside])) == {1.0, 5.0}


def test_displacement_is_the_largest_shift_of_a_pixel():
    assert displacement(CameraModel(TAKEN), TAKEN) == pytest.approx(0, abs=1e-3)
    shifted = Intrinsics(TAKEN.fx, TAKEN.fy, TAKEN.cx + 7, TAKEN.cy, 320, 240)
    assert displacement(CameraModel(TAKEN), shifted) == pytest.approx(7, abs=1e-3)
    camera = CameraModel(TAKEN, "plumb_bob", (-0.25,))
    x, y = cv2.initUndistortRectifyMap(
        matrix(TAKEN), np.array([-0.25, 0, 0, 0]), None, matrix(TAKEN), (320, 240), cv2.CV_32FC1
    )
    columns, rows = np.meshgrid(np.arange(320), np.arange(240))
    assert displacement(camera, TAKEN) == pytest.approx(np.hypot(x - columns, y - rows).max(), rel=0.1)
