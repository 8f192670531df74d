"""One node over DDS with the temporal filter. A slip is a frame in which the left third is brown, not red."""

from itertools import count

import numpy as np
import pytest
from lifecycle_msgs.msg import Transition
from rig import FRAME, depth_message, info_message, pixels, pose_message, running
from test_node_lifecycle import change
from test_node_parameters import set_parameter
from tf_messages import TfSender, transform

from ovs_ros.srv import SetVocabulary

USUAL = [["red", "green", "blue"]]
SLIP = [["brown", "green", "blue"]]  # Red and brown are the same grey: flow finds nothing that changed.
RED, BROWN = 0, 3
DEPTH = np.full((32, 96), 2.0, np.float32)


@pytest.fixture
def words(tmp_path):
    path = tmp_path / "colours.yaml"
    path.write_text("categories: [red, green, blue, brown]\n")
    return str(path)


def left(message):
    """The label of the left third."""
    (label,) = np.unique(pixels(message)[8:24, 8:24])
    return label


def settle(robot, start, measured):
    """Four frames of the usual picture and a slip: the slip's label image."""
    pictures = [USUAL] * 4 + [SLIP]
    for ms, picture in zip(range(start, start + 500, 100), pictures, strict=True):
        if measured:
            robot.send("depth", depth_message(ms, DEPTH))
            robot.send("pose", pose_message(ms))
        labels = robot.segment(ms, picture)
    return labels


@pytest.fixture(params=["flow", "pose"])
def robot(request, words):
    with running(words, temporal_filter=request.param, sync_slop=0.001) as robot:
        robot.measured = request.param == "pose"
        robot.send("camera_info", info_message(1))
        robot.until(lambda: robot.camera.camera_info, "the calibration")
        yield robot


def test_a_slip_of_one_frame_does_not_show_and_a_change_does(robot):
    slip = settle(robot, 1000, robot.measured)
    assert left(slip) == RED
    categories = robot.of_stamp("semantic/categories", 1400)
    assert "temporal_filter" in categories.stages
    assert dict(zip(categories.names, categories.shares, strict=True))["red"] == pytest.approx(
        1 / 3, abs=0.05
    )
    for ms in range(1500, 2400, 100):
        if robot.measured:
            robot.send("depth", depth_message(ms, DEPTH))
            robot.send("pose", pose_message(ms))
        labels = robot.segment(ms, SLIP)
    assert left(labels) == BROWN


def test_memory_ends_with_the_vocabulary(robot):
    settle(robot, 1000, robot.measured)
    request = SetVocabulary.Request(mode=SetVocabulary.Request.REMOVE, names=["red"])
    assert robot.call(SetVocabulary, "ovs/set_vocabulary", request).success
    if robot.measured:
        robot.send("depth", depth_message(1500, DEPTH))
        robot.send("pose", pose_message(1500))
    assert left(robot.segment(1500, SLIP)) == BROWN


def test_memory_ends_with_the_activation(robot):
    settle(robot, 1000, robot.measured)
    assert change(robot, Transition.TRANSITION_DEACTIVATE)
    assert change(robot, Transition.TRANSITION_ACTIVATE)
    robot.connected()
    robot.send("camera_info", info_message(2))
    robot.until(lambda: robot.camera.camera_info, "the calibration")
    if robot.measured:
        robot.send("depth", depth_message(1500, DEPTH))
        robot.send("pose", pose_message(1500))
    assert left(robot.segment(1500, SLIP)) == BROWN


def test_memory_ends_when_stamps_go_back(robot):
    settle(robot, 5000, robot.measured)
    if robot.measured:
        robot.send("depth", depth_message(1000, DEPTH))
        robot.send("pose", pose_message(1000))
    assert left(robot.segment(1000, SLIP)) == BROWN
    assert left(settle(robot, 1100, robot.measured)) == RED


def test_the_filter_is_off_by_default_and_can_be_switched(words):
    with running(words) as robot:
        assert left(settle(robot, 1000, measured=False)) == BROWN
        assert set_parameter(robot, "temporal_filter", "flow").successful
        assert left(settle(robot, 2000, measured=False)) == RED
        assert not set_parameter(robot, "temporal_filter", "median").successful
        assert set_parameter(robot, "temporal_filter", "off").successful
        assert left(settle(robot, 3000, measured=False)) == BROWN


@pytest.mark.parametrize(
    ("lacks", "text"),
    [
        ("camera_info", "expected a camera_info"),
        ("depth", "expected depth whose stamp"),
        ("pose", "expected pose whose stamp"),
        ("unit pose", "a unit quaternion"),
    ],
)
def test_frames_that_lack_something_come_out_as_they_are_with_one_warning(words, lacks, text):
    with running(words, temporal_filter="pose") as robot:
        if lacks != "camera_info":
            robot.send("camera_info", info_message(1))
            robot.until(lambda: robot.camera.camera_info, "the calibration")
        for ms, picture in ((1000, USUAL), (1100, USUAL), (1200, SLIP)):
            if lacks != "depth":
                robot.send("depth", depth_message(ms, DEPTH))
            if lacks != "pose":
                pose = pose_message(ms)
                pose.pose.orientation.w = 0.0 if lacks == "unit pose" else 1.0
                robot.send("pose", pose)
            labels = robot.segment(ms, picture)
        assert left(labels) == BROWN
        assert len(robot.warnings) == 1 and text in robot.warnings[0]


def test_one_frame_without_a_pose_does_not_end_the_memory(words):
    with running(words, temporal_filter="pose", sync_slop=0.001) as robot:
        robot.send("camera_info", info_message(1))
        robot.until(lambda: robot.camera.camera_info, "the calibration")
        settle(robot, 1000, measured=True)
        assert left(robot.segment(1410, SLIP)) == BROWN
        robot.send("depth", depth_message(1420, DEPTH))
        robot.send("pose", pose_message(1420))
        assert left(robot.segment(1420, SLIP)) == RED


def test_poses_of_another_frame_start_anew(words):
    with running(words, temporal_filter="pose") as robot:
        robot.send("camera_info", info_message(1))
        robot.until(lambda: robot.camera.camera_info, "the calibration")
        settle(robot, 1000, measured=True)
        robot.send("depth", depth_message(1500, DEPTH))
        robot.send("pose", pose_message(1500, world="odom"))
        assert left(robot.segment(1500, SLIP)) == BROWN


def test_poses_from_tf(words):
    with running(words, temporal_filter="pose", pose_source="tf", fixed_frame="map") as robot:
        tf = TfSender(robot.helper)
        robot.until(tf.moving.get_subscription_count, "the listener to tf")
        robot.send("camera_info", info_message(1))
        robot.until(lambda: robot.camera.camera_info, "the calibration")
        robot.segment(1)
        (text,) = robot.until(lambda: robot.warnings, "a warning")
        assert "leaves a frame as it is" in text and "depth" in text

        def label_of_a_slip(start, step):
            """Of a camera that moves by a step, in metres to the right, before the slip."""
            moved = [transform("map", FRAME, (start + ms) / 1000) for ms in (0, 300)]
            moved.append(transform("map", FRAME, (start + 400) / 1000, (step, 0, 0)))
            tf.send(*moved)
            for ms, picture in zip(range(start, start + 500, 100), [USUAL] * 4 + [SLIP], strict=True):
                robot.send("depth", depth_message(ms, DEPTH))
                labels = robot.segment(ms, picture)
            return left(labels)

        starts = count(1000, 1000)
        # Until the first transforms have come, poses are missing.
        robot.until(lambda: label_of_a_slip(next(starts), 0.0) == RED, "the filter")
        # Five metres to the right: what is seen now was out of the picture before.
        assert label_of_a_slip(next(starts), 5.0) == BROWN
