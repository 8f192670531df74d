"""One node over DDS: whatever comes in, it says once what is wrong, and the stream goes on."""

import re
from array import array

import cv2
import numpy as np
import pytest
from fakes import ColorImageEncoder, ColorTextEncoder, color_image
from rclpy.parameter import Parameter
from rig import PICTURE, depth_message, header, info_message, pose_message, rgb_message, running
from sensor_msgs.msg import CompressedImage

from ovs_ros.model import Model
from ovs_ros.segmenter import Segmenter

GOOD = color_image(PICTURE)
DEPTH = np.ones((32, 96), np.float32)


@pytest.fixture
def robot(vocabulary):
    with running(vocabulary) as robot:
        yield robot


def wrong(ms, **changes):
    message = rgb_message(ms, GOOD)
    for name, value in changes.items():
        setattr(message, name, value)
    return message


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"step": 17}, "step of at least 288 bytes"),
        ({"step": 300}, "expected 9600 bytes of data.*got 9216"),
        ({"data": b""}, "without data"),
        ({"encoding": "rgb7"}, "one of rgb8.*got 'rgb7'"),
        ({"encoding": "64FC1"}, "got '64FC1'"),
        ({"width": 0}, "expected an image with pixels"),
    ],
)
def test_a_malformed_image(robot, changes, text):
    robot.segment(1)
    for ms in range(2, 7):
        robot.send("image", wrong(ms, **changes))
        robot.until(
            lambda ms=ms: robot.camera.statistics.summary().dropped.get("malformed") == ms - 1, "the drop"
        )
    robot.segment(10)
    assert len(robot.warnings) == 1
    assert re.search(text, robot.warnings[0])


def test_stamps_that_go_back(robot):
    robot.segment(5000)
    robot.segment(1000)
    robot.segment(1033)
    assert len(robot.warnings) == 1
    assert "went back, now to 1.000 s" in robot.warnings[0]


@pytest.mark.parametrize("topic", ["image", "depth", "pose"])
def test_a_stamp_before_1970(robot, topic):
    message = {
        "image": rgb_message(1, GOOD),
        "depth": depth_message(1, DEPTH),
        "pose": pose_message(1),
    }[topic]
    message.header.stamp.sec = -5
    robot.segment(1000)
    robot.send(topic, message)
    if topic == "image":
        robot.labels(-5000 + 1)
    robot.segment(2000)
    robot.segment(3000)


def test_points_go_on_after_stamps_went_back(robot):
    robot.listen("semantic/points")
    robot.connected()
    robot.send("camera_info", info_message(1))
    robot.until(lambda: robot.camera.camera_info, "the calibration")
    for start in (50_000, 10_000):
        robot.segment(start)
        for ms in range(start + 100, start + 1300, 100):  # More than are kept.
            robot.send("depth", depth_message(ms, DEPTH))
            robot.image(ms)
            robot.of_stamp("semantic/points", ms)


@pytest.mark.parametrize(
    ("info", "depth", "text"),
    [
        (None, depth_message(1, DEPTH), "none yet"),
        (info_message(1, focal=float("nan")), depth_message(1, DEPTH), "finite"),
        (info_message(1, focal=0.0), depth_message(1, DEPTH), "focal lengths above 0"),
        (info_message(1, width=640, height=480), depth_message(1, DEPTH), "96x32.*got one for 640x480"),
        (info_message(1), depth_message(1, np.ones((16, 48), np.float32)), "96x32.*got 48x16"),
        (info_message(1), wrong(1), "16UC1.*got 'rgb8'"),
    ],
)
def test_depth_or_calibration_of_no_use_cost_only_the_points(robot, info, depth, text):
    robot.listen("semantic/points")
    robot.connected()
    if info is not None:
        robot.send("camera_info", info)
        robot.until(lambda: robot.camera.camera_info, "the calibration")
    robot.send("depth", depth)
    robot.segment(1)
    robot.until(lambda: robot.warnings, "the warning")
    assert re.search(text, robot.warnings[0])
    robot.segment(200)
    assert not robot.got["semantic/points"]

    robot.send("camera_info", info_message(400))
    robot.until(
        lambda: (now := robot.camera.camera_info) and now.header.stamp.nanosec == 400_000_000,
        "the calibration",
    )
    robot.send("depth", depth_message(400, DEPTH))
    robot.image(400)
    robot.of_stamp("semantic/points", 400)


def test_depth_of_another_frame_is_used_and_told(robot):
    robot.listen("semantic/points")
    robot.connected()
    robot.send("camera_info", info_message(1))
    robot.until(lambda: robot.camera.camera_info, "the calibration")
    depth = depth_message(1, DEPTH)
    depth.header.frame_id = "depth_frame"
    robot.send("depth", depth)
    robot.image(1)
    robot.of_stamp("semantic/points", 1)
    assert "got 'depth_frame'" in robot.warnings[0]


def test_a_frame_on_which_the_model_fails(vocabulary):
    failures = iter([RuntimeError("out of memory"), RuntimeError("again")])

    def on_backbone():
        for error in failures:
            raise error

    with running(vocabulary, on_backbone=on_backbone) as robot:
        for ms in (1, 2):
            robot.image(ms)
            robot.until(
                lambda ms=ms: robot.camera.statistics.summary().dropped.get("failed") == ms, "the failure"
            )
        robot.segment(3)


@pytest.mark.fault("decompression bombs", "refused by their header, before anything is decoded")
def test_a_compressed_image_that_claims_too_many_pixels(vocabulary):
    data = array("B", cv2.imencode(".png", np.zeros((300, 400), np.uint8))[1].tobytes())
    with running(vocabulary, image_transport="compressed") as robot:
        robot.send("image/compressed", CompressedImage(header=header(1), format="png", data=data))
        robot.labels(1)
        (changed,) = robot.node.set_parameters([Parameter("max_megapixels", value=0.1)])
        assert changed.successful
        robot.send("image/compressed", CompressedImage(header=header(2), format="png", data=data))
        robot.until(lambda: robot.camera.statistics.summary().dropped.get("malformed") == 1, "the drop")
        assert "at most 0.1 megapixels, got one that claims 400 x 300 pixels" in robot.warnings[0]


@pytest.mark.fault(
    "a model gives NaN or infinity",
    "no label from it: the frame is dropped and counted, ERROR in /diagnostics",
)
def test_a_frame_on_which_the_model_gives_nan(vocabulary):
    bad = iter([True, True, False])

    class Encoder(ColorImageEncoder):
        def encode(self, image):
            features = super().encode(image)
            if next(bad, False):
                features.patch_tokens[0, 0] = np.nan
            return features

    def make(load):
        return Segmenter(Model(Encoder(), ColorTextEncoder()))

    with running(vocabulary, make) as robot:
        for ms in (1, 2):
            robot.image(ms)
            robot.until(
                lambda ms=ms: robot.camera.statistics.summary().dropped.get("not finite") == ms, "the drop"
            )
        robot.segment(3)
        assert len(robot.got["semantic/image_raw"]) == 1
        assert [text for text in robot.warnings if "NaN or infinity; try" in text] == robot.warnings
        assert len(robot.warnings) == 1
