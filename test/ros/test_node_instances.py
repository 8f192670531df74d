"""Instances over DDS: an image of their numbers, and detections in 2D and 3D."""

import numpy as np
import pytest
from foxglove_msgs.msg import ImageAnnotations
from rig import FRAME, OUTPUTS, RELIABLE, depth_message, info_message, running

from ovs_ros.render import display_colors

NAMES = ("semantic/instances", "semantic/detections", "semantic/detections_3d")
MASK, FLAT, SOLID = NAMES
ANNOTATIONS = "semantic/annotations"
OUTPUTS[ANNOTATIONS] = (ImageAnnotations, RELIABLE)
PICTURE = [["red", "black", "red"], ["black", "black", "blue"]]  # 96x64 pixels


@pytest.fixture
def robot(vocabulary):
    with running(vocabulary, instances=True) as robot:
        yield robot


def test_two_red_squares_are_two_instances(robot):
    robot.listen(*NAMES)
    robot.connected()
    robot.send("camera_info", info_message(0, 96, 64))
    robot.until(lambda: robot.node.cameras[0].camera_info, "the calibration")
    metres = np.full((64, 96), 2.0, np.float32)
    metres[:32, 64:] = 4.0
    for ms in range(1, 1000):  # The first frames may come before all topics are connected.
        robot.send("depth", depth_message(ms, metres))
        labels = robot.segment(ms, PICTURE)
        robot.of_stamp("semantic/categories", ms)
        if all(robot.got[name] for name in NAMES):
            break
    robot.send("depth", depth_message(2000, metres))
    labels = robot.segment(2000, PICTURE)
    mask, flat, solid = (robot.of_stamp(name, 2000) for name in NAMES)
    assert mask.header == flat.header == solid.header == labels.header

    assert (mask.encoding, mask.step) == ("32SC1", 96 * 4)
    numbers = np.frombuffer(mask.data, "<i4").reshape(64, 96)
    assert [numbers[y, x] for y, x in ((5, 5), (5, 90), (60, 90), (60, 5))] == [1, 2, 3, 0]
    found = [(one.id, one.results[0].hypothesis.class_id) for one in flat.detections]
    assert found == [("1", "red"), ("2", "red"), ("3", "blue")]
    right = flat.detections[1]
    center = right.bbox.center.position
    assert (center.x, center.y, right.bbox.size_x, right.bbox.size_y) == (80, 16, 32, 32)
    assert 0.5 < right.results[0].hypothesis.score <= 1 and right.header.frame_id == FRAME

    assert [one.id for one in solid.detections] == ["1", "2", "3"]
    assert [one.bbox.center.position.z for one in solid.detections] == [2.0, 4.0, 2.0]
    assert solid.detections[1].bbox.center.position.x == pytest.approx((80 - 48) / 100 * 4, abs=0.05)
    assert solid.detections[1].results[0].pose.pose == solid.detections[1].bbox.center


def test_foxglove_gets_boxes_with_names(robot):
    robot.listen(ANNOTATIONS)
    robot.connected()
    for ms in range(1, 1000):
        robot.segment(ms, PICTURE)
        robot.of_stamp("semantic/categories", ms)
        if robot.got[ANNOTATIONS]:
            break
    drawn = robot.got[ANNOTATIONS][-1]
    assert [text.text.rpartition(" ")[0] for text in drawn.texts] == ["red", "red", "blue"]
    box, color = drawn.points[1], display_colors(["red", "green", "blue"], [])["red"]
    assert box.type == box.LINE_LOOP
    assert [(point.x, point.y) for point in box.points] == [(64, 0), (96, 0), (96, 32), (64, 32)]
    outline = box.outline_color
    assert tuple(round(part * 255) for part in (outline.r, outline.g, outline.b)) == color
    assert {stamp.nanosec % 1_000_000 for stamp in (box.timestamp, drawn.texts[0].timestamp)} == {0}
    assert drawn.texts[1].position.x == 64 and box.timestamp.nanosec > 0


def test_without_foxgloves_messages_all_else_is_there(vocabulary, monkeypatch):
    monkeypatch.setattr("ovs_ros.ros.annotations.AVAILABLE", False)
    with running(vocabulary, instances=True) as robot:
        topics = dict(robot.helper.get_publisher_names_and_types_by_node("ovs", "/"))
        assert f"/{FLAT}" in topics and f"/{ANNOTATIONS}" not in topics


def test_a_frame_without_instances_has_an_empty_list(robot):
    robot.listen(FLAT)
    robot.connected()
    for ms in range(1, 1000):
        robot.segment(ms, [["black"]])
        robot.of_stamp("semantic/categories", ms)
        if robot.got[FLAT]:
            break
    assert list(robot.got[FLAT][0].detections) == []


def test_small_regions_are_left_out(vocabulary):
    with running(vocabulary, instances=True, instance_share=0.3) as robot:
        robot.listen(FLAT)
        robot.connected()
        for ms in range(1, 1000):
            robot.segment(ms, [["red", "red", "black", "blue"]])
            robot.of_stamp("semantic/categories", ms)
            if robot.got[FLAT]:
                break
        (one,) = robot.got[FLAT][0].detections
        assert one.results[0].hypothesis.class_id == "red"


def test_without_depth_there_are_no_3d_detections_and_the_stream_goes_on(robot):
    robot.listen(SOLID, FLAT)
    robot.connected()
    for ms in range(1, 1000):
        robot.segment(ms, PICTURE)
        robot.of_stamp("semantic/categories", ms)
        if robot.got[FLAT]:
            break
    assert robot.got[SOLID] == [] and robot.node.cameras[0].statistics.summary().dropped == {}
