import cv2
import numpy as np
import pytest

from ovs_ros.geometry.camera_model import CameraModel
from ovs_ros.geometry.points import Intrinsics
from ovs_ros.geometry.rectify import Rectification
from ovs_ros.ros.optics import BodyMask
from ovs_ros.ros.throttle import Throttle


@pytest.fixture
def warnings():
    return []


@pytest.fixture
def mask(tmp_path, warnings):
    """Makes a mask of pixels."""

    def make(pixels):
        path = tmp_path / "body.png"
        cv2.imwrite(str(path), pixels)
        return BodyMask(str(path), Throttle(warnings.append))

    return make


BODY = np.array([[0, 0, 0, 0], [0, 0, 9, 255]], np.uint8)


def test_no_file_hides_nothing(warnings):
    assert BodyMask("", Throttle(warnings.append)).hidden((2, 4), None) is None


@pytest.mark.parametrize(
    "pixels",
    [
        BODY,
        np.stack((BODY * 0, BODY, BODY * 0), axis=-1),
        np.stack((BODY * 0 + 50,) * 3 + (BODY,), axis=-1),
        BODY.astype(np.uint16) * 256,
    ],
)
def test_what_is_not_black_is_hidden(mask, pixels, warnings):
    assert (mask(pixels).hidden((2, 4), None) == (BODY > 0)).all()
    assert not warnings


def test_a_mask_of_the_same_aspect_ratio_is_scaled(mask, warnings):
    hidden = mask(BODY).hidden((20, 40), None)
    assert (hidden == (BODY > 0).repeat(10, 0).repeat(10, 1)).all()
    assert not warnings


@pytest.mark.fault("a mask of the robot's body of another shape", "not used; one warning with both sizes")
def test_a_mask_of_another_aspect_ratio_is_not_used_and_told(mask, warnings):
    assert mask(BODY).hidden((4, 4), None) is None
    (text,) = warnings
    assert "expected a mask of the image's 4x4 pixels, or of the same aspect ratio" in text
    assert "got 4x2" in text


def test_a_black_mask_hides_nothing(mask):
    assert mask(BODY * 0).hidden((2, 4), None) is None


def test_the_mask_is_rectified_as_the_image_is(mask):
    camera = Intrinsics(50.0, 50.0, 50.0, 40.0, 100, 80)
    rectification = Rectification.of(CameraModel(camera, "plumb_bob", (0.4,)), camera)
    body = np.zeros((80, 100), np.uint8)
    body[60:] = 255
    hidden = mask(body).hidden((80, 100), rectification)
    shown = rectification.image(np.repeat(body[..., None], 3, 2))[..., 0]
    assert hidden[rectification.outside].all()
    inside = ~rectification.outside & ((shown < 20) | (shown > 230))
    assert (hidden == (shown > 128))[inside].all()


def test_a_file_that_is_no_image_is_refused(tmp_path, warnings):
    path = tmp_path / "body.png"
    path.write_text("no image")
    with pytest.raises(ValueError, match="expected a PNG image of the robot's body in .*body.png"):
        BodyMask(str(path), Throttle(warnings.append))
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        BodyMask(str(tmp_path / "none.png"), Throttle(warnings.append))
