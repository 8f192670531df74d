"""The node rectifies raw images over DDS, or says what comes of them."""

import cv2
import numpy as np
import pytest
from fakes import COLORS
from rig import depth_message, info_message, pixels, rgb_message, running

from ovs_ros.ros.conversions import camera_model_from

WIDTH, HEIGHT = 96, 96
BARREL = ("plumb_bob", [-0.25, 0.05, 0.0, 0.0, 0.0])
FISHEYE = ("equidistant", [0.05, 0.0, 0.0, 0.0])


def info(lens, ms=0):
    message = info_message(ms, WIDTH, HEIGHT, 60.0)
    message.distortion_model, message.d = lens
    message.p = [50.0, 0.0, 48.0, 0.0, 0.0, 50.0, 48.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    return message


def scene():
    """What a pinhole camera would show: red on the left, blue from column 70 on."""
    image = np.full((HEIGHT, WIDTH, 3), COLORS["red"], np.uint8)
    image[:, 70:] = COLORS["blue"]
    return image


def raw(lens):
    """The scene, and its depth of 1 m on the left and 2 m on the right, as the lens bends them."""
    camera = camera_model_from(info(lens))
    rows, columns = np.indices((400, 400)) / 2 - 52  # A dense grid around the image.
    rays = np.stack(((columns - 48) / 50, (rows - 48) / 50, np.ones_like(rows)), axis=-1).reshape(-1, 3)
    places = camera.project(rays.astype(np.float32))
    inside = ((places > -0.5) & (places < WIDTH - 0.5)).all(axis=1)
    x, y = np.rint(places[inside]).astype(int).T
    right = (columns.reshape(-1) >= 69.5)[inside]
    image, metres = np.zeros((HEIGHT, WIDTH, 3), np.uint8), np.zeros((HEIGHT, WIDTH), np.float32)
    image[y, x] = np.where(right[:, None], COLORS["blue"], COLORS["red"])
    metres[y, x] = np.where(right, 2.0, 1.0)
    holes = (metres == 0).view(np.uint8)
    return cv2.inpaint(image, holes, 2, cv2.INPAINT_NS), metres


def calibrated(robot, lens):
    robot.send("camera_info", info(lens))
    robot.until(lambda: robot.camera.camera_info, "the calibration")


@pytest.mark.parametrize("lens", [BARREL, FISHEYE])
def test_a_bent_image_comes_out_straight(vocabulary, lens):
    image, metres = raw(lens)
    with running(vocabulary, rectify=True) as robot:
        robot.listen("semantic/points", "semantic/overlay")
        robot.connected()
        calibrated(robot, lens)
        robot.send("depth", depth_message(5, metres))
        robot.send("image", rgb_message(5, image))
        labels = pixels(robot.labels(5))
        assert labels.shape == (HEIGHT, WIDTH)
        middle = labels[8:88]
        # The edge is a straight line again, which it is not in the raw image.
        edges = np.argmax(middle == 2, axis=1)
        assert edges.min() >= 68 and edges.max() <= 72
        cloud = robot.of_stamp("semantic/points", 5)
        points = np.frombuffer(cloud.data, np.uint8).reshape(HEIGHT, WIDTH, 24)
        x, _, z = np.moveaxis(np.ascontiguousarray(points[:, :, :12]).view("<f4"), 2, 0)
        assert z[48, 40] == pytest.approx(1.0) and z[48, 85] == pytest.approx(2.0)
        assert x[48, 85] == pytest.approx((85 - 48) * 2.0 / 50, abs=0.01)
        assert not [text for text in robot.warnings if "off by" in text]


def test_what_the_camera_did_not_see_is_unknown(vocabulary):
    image = np.full((HEIGHT, WIDTH, 3), COLORS["green"], np.uint8)
    with running(vocabulary, rectify=True) as robot:
        calibrated(robot, ("plumb_bob", [0.9, 0.0, 0.0, 0.0, 0.0]))  # It saw less than a pinhole camera.
        robot.send("image", rgb_message(5, image))
        labels, confidence = pixels(robot.labels(5)), pixels(robot.of_stamp("semantic/confidence", 5))
        assert labels[48, 48] == 1 and labels[0, 0] == 255
        assert confidence[0, 0] == 0
        categories = robot.of_stamp("semantic/categories", 5)
        assert categories.unknown_share == pytest.approx((labels == 255).mean())
        assert sum(categories.shares) + categories.unknown_share == pytest.approx(1)


def test_without_a_calibration_images_are_dropped_with_a_reason(vocabulary):
    with running(vocabulary, rectify=True) as robot:
        robot.image(1)
        (text,) = robot.until(lambda: robot.warnings, "a warning")
        assert "it cannot be rectified: expected a camera_info, got none yet" in text
        calibrated(robot, BARREL)
        robot.send("image", rgb_message(2, scene()))
        robot.labels(2)


@pytest.mark.fault(
    "raw, distorted images where points are wanted", "a warning says by how many pixels points are off"
)
@pytest.mark.parametrize(("topic", "warned"), [("camera/image_raw", True), ("camera/image_rect", False)])
def test_points_of_a_raw_image_come_with_a_warning(vocabulary, topic, warned):
    with running(vocabulary, remap={"image": topic}) as robot:
        robot.redirect("image", topic)
        robot.redirect("camera_info", "camera/camera_info")
        robot.listen("semantic/points")
        robot.until(lambda: robot.reaches("image") and robot.reaches("camera_info"), "the node")
        robot.connected()
        calibrated(robot, BARREL)
        for ms in (5, 10):
            robot.send("depth", depth_message(ms, np.ones((HEIGHT, WIDTH), np.float32)))
            robot.send("image", rgb_message(ms, scene()))
            robot.of_stamp("semantic/points", ms)
        texts = [text for text in robot.warnings if "off by up to" in text]
        assert len(texts) == warned
        if warned:
            assert "pixels: the image is raw" in texts[0] and "Set the parameter rectify to true" in texts[0]
