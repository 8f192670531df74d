"""One node over DDS: teaching a word by pointing into a frame while frames come in."""

import threading

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from fakes import color_segmenter
from geometry_msgs.msg import Point, PointStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rig import DEADLINE_S, FRAME, header, info_message, pixels, running

from ovs_ros.ros.teach_point import TeachPoint
from ovs_ros.srv import GetVocabulary, SetVocabulary, Teach

CYAN = [["red", "cyan", "red"]]  # 96x32 pixels; the vocabulary is red, green and blue, and black is negative


@pytest.fixture
def robot(vocabulary):
    with running(vocabulary) as robot:
        yield robot


def teach(robot, name="bay 7", ms=0, examples_only=True, **where):
    stamp = Time(sec=ms // 1000, nanosec=ms % 1000 * 1_000_000)
    request = Teach.Request(name=name, stamp=stamp, examples_only=examples_only, **where)
    return robot.call(Teach, "ovs/teach", request)


MASK = np.zeros((32, 96), np.uint8)
MASK[:, 32:64] = 1


@pytest.mark.parametrize(
    "where", [{"box": [32, 0, 64, 32]}, {"points": [48, 16]}, {"mask": MASK.ravel().tolist()}]
)
def test_what_was_shown_gets_the_name(robot, where):
    assert pixels(robot.segment(1, CYAN))[16, 48] != 3
    reply = teach(robot, **where)
    assert reply.success, reply.message
    assert dict(zip(reply.names, reply.ids, strict=True)) == {"red": 0, "green": 1, "blue": 2, "bay 7": 3}
    assert reply.version == 2 and "version 2 with 4 categories" in reply.message
    assert pixels(robot.segment(2, [["cyan", "green", "red"]]))[16, [16, 48, 80]].tolist() == [3, 1, 0]
    assert robot.of_stamp("semantic/categories", 2).version == 2
    got = robot.call(GetVocabulary, "ovs/get_vocabulary", GetVocabulary.Request())
    assert list(got.examples) == [0, 0, 0, 1]


def test_points_into_the_frame_of_the_stamp(robot):
    robot.segment(1000, CYAN)
    robot.segment(2000)
    assert teach(robot, ms=1500, box=[32, 0, 64, 32]).success
    assert pixels(robot.segment(3000, CYAN))[16, [16, 48]].tolist() == [0, 3]


def test_examples_add_up_and_can_speak_against(robot):
    robot.segment(1, [["cyan", "magenta", "red"]])
    assert teach(robot, box=[0, 0, 64, 32]).success
    assert pixels(robot.segment(2, [["magenta", "cyan", "red"]]))[16, [16, 48]].tolist() == [3, 3]
    assert teach(robot, ms=2, box=[0, 0, 32, 32], negative=True).success
    assert pixels(robot.segment(3, [["magenta", "cyan", "red"]]))[16, [16, 48]].tolist() != [3, 3]
    got = robot.call(GetVocabulary, "ovs/get_vocabulary", GetVocabulary.Request())
    assert list(got.examples) == [0, 0, 0, 2]


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ({"box": [32, 0, 97, 32]}, "inside the image of 96 x 32"),
        ({"box": [32, 0, 97]}, "a box x0, y0, x1, y1"),
        ({"points": [1, 2, 3]}, "points as x and y in turn"),
        ({"mask": [1, 2, 3]}, "a mask of the frame's 96 x 32 pixels"),
        ({}, "one of box, mask and points"),
        ({"box": [0, 0, 9, 9], "points": [1, 1]}, "one of box, mask and points"),
        ({"box": [0, 0, 9, 9], "negative": True}, "an example that shows 'bay 7'"),
        ({"box": [0, 0, 9, 9], "name": " "}, "a letter or a digit"),
        ({"box": [0, 0, 9, 9], "ms": 1}, "the stamp of a recent frame"),
        ({"box": [0, 0, 9, 9], "camera": "left"}, "no name, for the only camera has none, got 'left'"),
    ],
)
def test_an_impossible_request_changes_nothing(robot, where, text):
    robot.segment(2, CYAN)
    reply = teach(robot, **where)
    assert not reply.success and text in reply.message
    assert (reply.version, list(reply.names)) == (1, ["red", "green", "blue"])


def test_before_the_first_frame_it_says_so(robot):
    reply = teach(robot, box=[0, 0, 1, 1])
    assert not reply.success and "none yet" in reply.message


def test_frames_go_on_and_none_is_dropped_while_it_learns(vocabulary):
    """An example is encoded between two frames, by who encodes those: nobody else touches the encoder."""
    encoders = []

    def make(load):
        return color_segmenter(lambda: encoders.append(threading.current_thread().name))

    with running(vocabulary, make) as robot:
        robot.segment(1, CYAN)
        request = Teach.Request(name="bay 7", box=[32, 0, 64, 32], examples_only=True)
        asked = robot.ask(Teach, "ovs/teach", request)
        for ms in range(2, 30):
            robot.segment(ms, CYAN)
        robot.until(asked.done, "the reply")
        assert asked.result().success
        assert pixels(robot.segment(30, CYAN))[16, 48] == 3
        robot.until(lambda: len(robot.got["semantic/categories"]) == 30, "all frames")
        versions = [message.version for message in robot.got["semantic/categories"]]
        assert versions == sorted(versions)
        assert robot.camera.statistics.summary().dropped == {}
        assert encoders == ["segmentation"] * 31


@pytest.mark.parametrize(
    ("transitions", "text"),
    [(("DEACTIVATE",), "an active node"), (("DEACTIVATE", "CLEANUP"), "a configured node")],
)
def test_a_node_that_encodes_no_frames_says_what_to_do(robot, transitions, text):
    robot.segment(1, CYAN)
    for transition in transitions:
        change = ChangeState.Request()
        change.transition.id = getattr(Transition, f"TRANSITION_{transition}")
        assert robot.call(ChangeState, "ovs/change_state", change).success
    reply = teach(robot, box=[32, 0, 64, 32])
    assert not reply.success and text in reply.message


def test_deactivating_while_it_waits_for_its_turn_ends_both(vocabulary):
    at_work, go_on = threading.Event(), threading.Event()

    def slow():
        at_work.set()
        assert go_on.wait(DEADLINE_S)

    with running(vocabulary, on_backbone=slow) as robot:
        go_on.set()
        robot.segment(1, CYAN)
        at_work.clear()
        go_on.clear()
        robot.image(2, CYAN)
        robot.until(at_work.is_set, "the frame at work")
        asked = robot.ask(Teach, "ovs/teach", Teach.Request(name="bay 7", box=[32, 0, 64, 32]))
        change = ChangeState.Request()
        change.transition.id = Transition.TRANSITION_DEACTIVATE
        stopped = robot.ask(ChangeState, "ovs/change_state", change)
        robot.until(lambda: robot.helper.count_subscribers("image") == 0, "the end of the subscription")
        go_on.set()
        robot.until(stopped.done, "the end of the transition")
        robot.until(asked.done, "the reply")
        # Its turn may still have come, after the frame.
        assert asked.result().success or "an active node" in asked.result().message


def test_what_was_taught_is_there_after_a_restart(vocabulary, tmp_path):
    state_file = str(tmp_path / "words")
    with running(vocabulary, state_file=state_file) as robot:
        robot.segment(1, CYAN)
        assert teach(robot, box=[32, 0, 64, 32]).success
        add = SetVocabulary.Request(mode=SetVocabulary.Request.ADD, names=["yellow"])
        assert robot.call(SetVocabulary, "ovs/set_vocabulary", add).success
        killed = (tmp_path / "words").read_bytes()  # What a kill would leave: nothing is written at the end.
    (tmp_path / "words").write_bytes(killed)
    with running(vocabulary, state_file=state_file) as robot:
        assert pixels(robot.segment(1, [["cyan", "yellow", "red"]]))[16, [16, 48, 80]].tolist() == [3, 4, 0]
        assert robot.of_stamp("semantic/categories", 1).version == 3
        (info,) = robot.got["semantic/label_info"]
        names = {entry.class_id: entry.class_name for entry in info.class_map}
        assert names.items() >= {0: "red", 3: "bay 7", 4: "yellow"}.items()
        got = robot.call(GetVocabulary, "ovs/get_vocabulary", GetVocabulary.Request())
        assert (got.version, list(got.examples)) == (3, [0, 0, 0, 1, 0])


def test_a_damaged_state_file_is_one_warning(vocabulary, tmp_path):
    (tmp_path / "words").write_bytes(b"no state file")
    with running(vocabulary, state_file=str(tmp_path / "words"), autostart=False) as robot:
        change = ChangeState.Request()
        change.transition.id = Transition.TRANSITION_CONFIGURE
        assert robot.call(ChangeState, "ovs/change_state", change).success
        assert len(robot.warnings) == 1 and "words.old" in robot.warnings[0]
        got = robot.call(GetVocabulary, "ovs/get_vocabulary", GetVocabulary.Request())
        assert (got.version, list(got.names)) == (1, ["red", "green", "blue"])


def test_words_that_are_added_later_keep_what_was_taught(robot):
    robot.segment(1, CYAN)
    assert teach(robot, box=[32, 0, 64, 32]).success
    add = SetVocabulary.Request(mode=SetVocabulary.Request.ADD, names=["yellow"])
    assert robot.call(SetVocabulary, "ovs/set_vocabulary", add).success
    assert pixels(robot.segment(2, [["cyan", "yellow", "red"]]))[16, [16, 48, 80]].tolist() == [3, 4, 0]


@pytest.mark.parametrize(
    ("point", "frame"), [(Point(x=48.0, y=16.0), "screen"), (Point(x=0.0, y=0.0, z=2.0), FRAME)]
)
def test_clicks_reach_the_service_through_the_bridge(robot, point, frame):
    """A pixel, and a point in space before the camera's centre, which is the picture's."""
    robot.segment(1, CYAN)
    context = robot.helper.context
    given = {"name": "bay 7", "examples_only": True}
    bridge = TeachPoint([Parameter(name, value=value) for name, value in given.items()], context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(bridge)
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    try:
        clicks = robot.helper.create_publisher(PointStamped, "clicked_point", 10)
        robot.until(lambda: clicks.get_subscription_count() > 0, "the bridge")
        robot.until(lambda: robot.helper.count_subscribers("camera_info") > 1, "the bridge's camera_info")

        def taught():
            robot.send("camera_info", info_message(1))
            clicks.publish(PointStamped(header=header(1, frame), point=point))
            return robot.call(GetVocabulary, "ovs/get_vocabulary", GetVocabulary.Request()).names[3:]

        assert list(robot.until(taught, "the category")) == ["bay 7"]
    finally:
        executor.shutdown()
        thread.join()
        bridge.destroy_node()
    assert pixels(robot.segment(2, CYAN))[16, [16, 48]].tolist() == [0, 3]
