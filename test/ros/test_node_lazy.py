"""One node over DDS: what it does while nobody subscribes to its outputs."""

import numpy as np
import pytest
from rig import ALWAYS, depth_message, info_message, running
from test_node_parameters import set_parameter

from ovs_ros.srv import SetVocabulary

OF_FRAMES = [topic for topic in ALWAYS if topic != "semantic/label_info"]


def subscribed(robot, topic, count=1):
    robot.until(lambda: robot.helper.count_subscribers(topic) == count, f"{count} subscription to {topic}")


def said(robot, text):
    robot.listen("/diagnostics")
    return robot.until(
        lambda: next(
            (s for m in robot.got["/diagnostics"] for s in m.status if s.message == text),
            None,
        ),
        f"{text!r} in diagnostics",
    )


def test_images_are_subscribed_to_only_while_somebody_subscribes(vocabulary):
    with running(vocabulary) as robot:
        robot.segment(1)
        robot.ignore(*OF_FRAMES)
        for topic in ("image", "camera_info"):
            subscribed(robot, topic, 0)
        assert said(robot, "idle: nobody subscribes").level == b"\x00"
        add = SetVocabulary.Request(mode=SetVocabulary.Request.ADD, names=["cyan"])
        assert robot.call(SetVocabulary, "ovs/set_vocabulary", add).success
        robot.until(lambda: len(robot.got["semantic/label_info"]) == 2, "the new words")
        for round_, topic in enumerate(("semantic/categories", "semantic/overlay", "semantic/image_raw")):
            robot.listen(topic)
            robot.connected()
            robot.image(10 + round_)
            robot.of_stamp(topic, 10 + round_)
            robot.ignore(topic)
            subscribed(robot, "image", 0)
        assert not robot.warnings


def test_one_camera_rests_while_another_works(vocabulary):
    with running(vocabulary, cameras=["front", "rear"]) as robot:
        robot.ignore(*(f"rear/{topic}" for topic in OF_FRAMES))
        subscribed(robot, "rear/image", 0)
        for ms in (1, 2):
            robot.image(ms, camera="front")
            robot.of_stamp("front/semantic/image_raw", ms)
        robot.listen("rear/semantic/image_raw")
        robot.connected()
        robot.image(3, camera="rear")
        robot.of_stamp("rear/semantic/image_raw", 3)


def test_depth_and_pose_are_subscribed_to_only_while_something_needs_them(vocabulary):
    with running(vocabulary) as robot:
        assert robot.helper.count_subscribers("depth") == robot.helper.count_subscribers("pose") == 0
        robot.listen("semantic/points")
        robot.connected()
        robot.send("camera_info", info_message(1))
        robot.until(lambda: robot.camera.camera_info, "the calibration")
        robot.send("depth", depth_message(1, np.ones((32, 96), np.float32)))
        robot.image(1)
        robot.of_stamp("semantic/points", 1)
        robot.ignore("semantic/points")
        subscribed(robot, "depth", 0)
        assert set_parameter(robot, "temporal_filter", "pose").successful
        for topic in ("depth", "pose"):
            subscribed(robot, topic)
        assert set_parameter(robot, "temporal_filter", "off").successful
        for topic in ("depth", "pose"):
            subscribed(robot, topic, 0)


def test_a_calibration_of_before_the_rest_does_not_count_after_it(vocabulary):
    with running(vocabulary) as robot:
        robot.send("camera_info", info_message(1))
        robot.until(lambda: robot.camera.camera_info, "the calibration")
        robot.ignore(*OF_FRAMES)
        robot.until(lambda: robot.camera.camera_info is None, "the rest")


@pytest.mark.parametrize("parameters", [{"lazy": False}, {"points": "always"}])
def test_whoever_wants_results_in_any_case_gets_them(vocabulary, parameters):
    with running(vocabulary, **parameters) as robot:
        robot.ignore(*OF_FRAMES)
        robot.image(1)
        robot.until(lambda: robot.camera.statistics.summary().published_hz > 0, "a frame")


def test_it_may_be_switched_while_the_node_runs(vocabulary):
    with running(vocabulary) as robot:
        robot.ignore(*OF_FRAMES)
        subscribed(robot, "image", 0)
        assert set_parameter(robot, "lazy", False).successful
        subscribed(robot, "image")
        assert set_parameter(robot, "lazy", True).successful
        subscribed(robot, "image", 0)
