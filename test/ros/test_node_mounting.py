"""Cameras that are mounted turned, and cameras that see the robot itself, over DDS."""

import cv2
import numpy as np
import pytest
from fakes import color_image, color_segmenter
from rig import depth_message, info_message, pixels, rgb_message, running

pytestmark = pytest.mark.usefixtures("patient")
PICTURE = [["red", "green", "blue"], ["green", "green", "red"]]  # 64 rows, 96 columns
LABELS = np.array([[0, 1, 2], [1, 1, 0]])


def squares(image):
    """The middle of each square: where squares meet, labels are interpolated."""
    return image[16::32, 16::32].tolist()


class Watched:
    """A segmenter that keeps what it is given."""

    def __init__(self):
        self._segmenter = color_segmenter()
        self.images = []

    def __getattr__(self, name):
        return getattr(self._segmenter, name)

    def segment(self, image, *rest):
        self.images.append(image.copy())
        return self._segmenter.segment(image, *rest)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_the_model_sees_a_turned_camera_upright_and_outputs_are_the_cameras(vocabulary, rotation):
    upright = color_image(PICTURE)
    taken = np.ascontiguousarray(np.rot90(upright, rotation // 90))  # To the left, as rot90 does it.
    expected = np.rot90(LABELS, rotation // 90)
    height, width = taken.shape[:2]
    segmenter = Watched()
    with running(vocabulary, lambda load: segmenter, rotation=rotation) as robot:
        robot.listen("semantic/points", "semantic/overlay", "semantic/color")
        robot.connected()
        robot.send("camera_info", info_message(5, width, height))
        robot.until(lambda: robot.camera.camera_info, "the calibration")
        robot.send("depth", depth_message(5, np.ones((height, width), np.float32)))
        robot.send("image", rgb_message(5, taken))
        assert squares(pixels(robot.labels(5))) == expected.tolist()
        (image,) = segmenter.images
        assert (image == upright).all()
        assert (pixels(robot.of_stamp("semantic/confidence", 5)) > 0).all()
        for name in ("color", "overlay"):
            assert pixels(robot.of_stamp(f"semantic/{name}", 5)).shape == (height, width, 3)
        cloud = robot.of_stamp("semantic/points", 5)
        points = np.frombuffer(cloud.data, np.uint8).reshape(height, width, 24)
        assert squares(points[..., 16]) == expected.tolist()


def test_the_robots_own_body_is_unknown_and_has_no_points(vocabulary, tmp_path):
    body = np.zeros((64, 96), np.uint8)
    body[40:] = 255
    cv2.imwrite(str(tmp_path / "body.png"), body)
    with running(vocabulary, body_mask=str(tmp_path / "body.png")) as robot:
        robot.listen("semantic/points")
        robot.connected()
        robot.send("camera_info", info_message(5, 96, 64))
        robot.until(lambda: robot.camera.camera_info, "the calibration")
        robot.send("depth", depth_message(5, np.ones((64, 96), np.float32)))
        robot.image(5, PICTURE)
        labels = pixels(robot.labels(5))
        assert squares(labels) == [[0, 1, 2], [255] * 3] and (labels[40:] == 255).all()
        assert (pixels(robot.of_stamp("semantic/confidence", 5))[40:] == 0).all()
        categories = robot.of_stamp("semantic/categories", 5)
        assert categories.unknown_share == pytest.approx((labels == 255).mean())
        assert sum(categories.shares) == pytest.approx((labels != 255).mean())
        raw = np.frombuffer(robot.of_stamp("semantic/points", 5).data, np.uint8).reshape(64, 96, 24)
        z = np.ascontiguousarray(raw[:, :, 8:12]).view("<f4")[..., 0]
        assert (z[:40] == 1).all() and np.isnan(z[40:]).all()


def test_each_camera_has_its_own_mounting(vocabulary, tmp_path):
    body = np.full((64, 96), 255, np.uint8)
    cv2.imwrite(str(tmp_path / "body.png"), body)
    segmenter = Watched()
    parameters = {"rotation": [0, 90], "body_mask": ["", str(tmp_path / "body.png")]}
    with running(vocabulary, lambda load: segmenter, cameras=["front", "rear"], **parameters) as robot:
        robot.image(5, PICTURE, "front")
        assert squares(pixels(robot.of_stamp("front/semantic/image_raw", 5))) == LABELS.tolist()
        robot.image(6, PICTURE, "rear")
        assert (pixels(robot.of_stamp("rear/semantic/image_raw", 6)) == 255).all()
        assert [image.shape[:2] for image in segmenter.images] == [(64, 96), (96, 64)]


def test_a_mask_that_is_not_there_is_told_before_anything_runs(vocabulary, tmp_path):
    with running(vocabulary, body_mask=str(tmp_path / "none.png"), autostart=False) as robot:
        robot.node.trigger_configure()
        assert "none.png" in robot.node.failure
