"""Several cameras in one node over DDS."""

import threading
from array import array
from collections import Counter

import numpy as np
import pytest
from fakes import ColorTextEncoder, TogetherImageEncoder, color_image
from rcl_interfaces.srv import ListParameters
from rig import DEADLINE_S, header, pixels, rgb_message, running, stamp_ms
from sensor_msgs.msg import Image
from test_node_parameters import set_parameter

from ovs_ros.model import Model
from ovs_ros.segmenter import Segmenter
from ovs_ros.srv import SetVocabulary, Teach

CAMERAS = ["front", "left/rear"]
SMALL = [["red", "green"]]
LARGE = [["blue", "red", "green"], ["red", "red", "blue"]]


@pytest.fixture
def robot(vocabulary):
    with running(vocabulary, cameras=CAMERAS) as robot:
        yield robot


def test_each_camera_has_its_own_topics_size_and_encoding(robot):
    robot.image(1, SMALL, camera="front")
    wide = rgb_message(2, color_image(LARGE)[:, :, ::-1])
    wide.encoding = "bgr8"
    robot.send("left/rear/image", wide)
    front = robot.of_stamp("front/semantic/image_raw", 1)
    rear = robot.of_stamp("left/rear/semantic/image_raw", 2)
    assert pixels(front)[16, [16, 48]].tolist() == [0, 1]
    assert pixels(rear)[[16, 16, 48, 48], [16, 80, 16, 80]].tolist() == [2, 1, 0, 2]
    for camera in CAMERAS:
        assert len(robot.got[f"{camera}/semantic/image_raw"]) == 1


def test_one_change_of_the_words_reaches_all_cameras_with_equal_ids(robot):
    request = SetVocabulary.Request(mode=SetVocabulary.Request.ADD, names=["cyan"])
    reply = robot.call(SetVocabulary, "ovs/set_vocabulary", request)
    assert reply.success
    for camera in CAMERAS:  # Also where no image comes.
        robot.until(lambda c=camera: len(robot.got[f"{c}/semantic/label_info"]) == 2, "the label_info")
        info = robot.got[f"{camera}/semantic/label_info"][-1]
        assert [entry.class_id for entry in info.class_map] == reply.ids.tolist()
        robot.image(5, [["cyan", "red"]], camera)
        assert pixels(robot.of_stamp(f"{camera}/semantic/image_raw", 5))[16, [16, 48]].tolist() == [3, 0]
        assert robot.of_stamp(f"{camera}/semantic/categories", 5).version == reply.version


def overloaded(robot, turns, rates, frames):
    """Let the model take so many frames; before each, each camera sends as many images as `rates` says.

    Returns how many label images each camera got.
    """
    ms = 0
    for _ in range(frames):
        for camera, rate in rates.items():
            for _ in range(rate):
                ms += 1
                counted = next(c for c in robot.node.cameras if c.name == camera).statistics
                before = counted.images
                robot.image(ms, SMALL, camera)
                robot.until(lambda c=counted, b=before: c.images > b, "the arrival")
        turns.release()
        done = sum(len(robot.got[f"{camera}/semantic/image_raw"]) for camera in rates)
        robot.until(
            lambda done=done: sum(len(robot.got[f"{c}/semantic/image_raw"]) for c in rates) > done, "a mask"
        )
    turns.release(100)
    return Counter({camera: len(robot.got[f"{camera}/semantic/image_raw"]) for camera in rates})


@pytest.mark.parametrize(
    ("priorities", "expected"),
    [([1.0], {"a": 8, "b": 8, "c": 8}), ([2.0, 1.0, 1.0], {"a": 12, "b": 6, "c": 6})],
)
def test_a_slow_model_serves_cameras_by_their_priorities(vocabulary, priorities, expected):
    turns = threading.Semaphore(0)
    with running(
        vocabulary,
        cameras=["a", "b", "c"],
        priorities=priorities,
        on_backbone=lambda: turns.acquire(timeout=DEADLINE_S),
    ) as robot:
        got = overloaded(robot, turns, {"a": 1, "b": 3, "c": 2}, sum(expected.values()))
        assert all(abs(got[camera] - count) <= 1 for camera, count in expected.items()), got
        assert all(robot.node.cameras[i].statistics.summary().dropped for i in (1, 2))


def test_frames_that_wait_are_encoded_together_and_keep_all_that_is_theirs(vocabulary):
    turns = threading.Semaphore(0)
    encoder = TogetherImageEncoder(lambda: turns.acquire(timeout=DEADLINE_S))
    cameras = ["a", "b", "c"]
    with running(
        vocabulary,
        lambda load: Segmenter(Model(encoder, ColorTextEncoder())),
        cameras=cameras,
        rotation=[0, 90, 0],
    ) as robot:
        robot.image(1, SMALL, "a")
        robot.until(lambda: encoder.batches, "the model")
        robot.image(2, SMALL, "a")
        robot.image(3, SMALL, "b")
        bad = rgb_message(4, color_image(SMALL))
        bad.encoding = "rgb7"
        robot.send("c/image", bad)
        robot.until(lambda: all(c.statistics.images for c in robot.node.cameras), "the arrivals")
        robot.until(lambda: robot.node.cameras[0].statistics.images == 2, "the arrival")
        turns.release(100)
        for camera, ms in (("a", 1), ("a", 2), ("b", 3)):
            assert pixels(robot.of_stamp(f"{camera}/semantic/image_raw", ms))[16, [16, 48]].tolist() == [0, 1]
            categories = robot.of_stamp(f"{camera}/semantic/categories", ms)
            assert {"convert", "encode", "publish"} <= set(categories.stages)
        assert encoder.batches == [1, 2]
        robot.until(lambda: robot.node.cameras[2].statistics.summary().dropped == {"malformed": 1}, "a drop")


def test_a_rate_limit_for_each_camera_while_it_runs(vocabulary):
    with running(vocabulary, cameras=["slow", "free"], max_rate=[0.001, 0.0]) as robot:
        slow, free = robot.node.cameras

        def send(start):
            for ms in range(start, start + 3):
                for camera in (slow, free):
                    robot.image(ms, SMALL, camera.name)
                    robot.until(lambda c=camera, ms=ms: c.statistics.images == ms, "the arrival")
                robot.of_stamp("free/semantic/image_raw", ms)

        send(1)
        assert [stamp_ms(m) for m in robot.got["slow/semantic/image_raw"]] == [1]
        assert slow.statistics.summary().dropped == {"above max_rate": 2}
        assert free.statistics.summary().dropped == {}
        assert set_parameter(robot, "max_rate", 0.0).successful
        send(4)
        robot.of_stamp("slow/semantic/image_raw", 6)
        assert slow.statistics.summary().dropped.get("above max_rate") == 2


def test_a_camera_that_stops_and_returns(robot):
    for ms in (1, 2, 3):
        robot.image(ms, SMALL, "front")
        robot.of_stamp("front/semantic/image_raw", ms)
    for ms in (4, 5):
        for camera in CAMERAS:
            robot.image(ms, LARGE, camera)
        for camera in CAMERAS:
            robot.of_stamp(f"{camera}/semantic/image_raw", ms)
    assert [stamp_ms(m) for m in robot.got["left/rear/semantic/image_raw"]] == [4, 5]


def test_what_one_camera_changes_does_not_touch_the_other(vocabulary):
    """Size and encoding change from frame to frame; the filter and the bits in use are each camera's own."""
    with running(vocabulary, cameras=CAMERAS, temporal_filter="flow") as robot:
        for ms in range(1, 13):
            if ms % 3 == 0:
                message = rgb_message(ms, color_image(LARGE)[:, :, ::-1])
                message.encoding = "bgr8"
            elif ms % 3 == 1:
                message = rgb_message(ms, color_image(SMALL))
            else:
                dark = np.full((48, 80), 1023 if ms == 2 else 60_000, "<u2")
                message = Image(header=header(ms), width=80, height=48, encoding="mono16", step=160)
                message.data = array("B", dark.tobytes())
            robot.send("left/rear/image", message)
            robot.image(ms, SMALL, "front")
            rear = robot.of_stamp("left/rear/semantic/image_raw", ms)
            assert (rear.height, rear.width) == (message.height, message.width)
            front = pixels(robot.of_stamp("front/semantic/image_raw", ms))
            assert front.shape == (32, 64) and front[16, [16, 48]].tolist() == [0, 1]
        assert not robot.warnings


@pytest.mark.parametrize(("camera", "success"), [("front", True), ("left/rear", True), ("rear", False)])
def test_a_word_is_taught_in_a_frame_of_a_named_camera(robot, camera, success):
    robot.image(1, [["cyan", "red"]], "front")
    robot.of_stamp("front/semantic/image_raw", 1)
    robot.image(2, [["red", "cyan"]], "left/rear")
    robot.of_stamp("left/rear/semantic/image_raw", 2)
    left = 0 if camera == "front" else 32
    request = Teach.Request(name="bay 7", camera=camera, box=[left, 0, left + 32, 32], examples_only=True)
    reply = robot.call(Teach, "ovs/teach", request)
    assert reply.success is success, reply.message
    if not success:
        assert "one of front, left/rear, got 'rear'" in reply.message
        return
    for other in CAMERAS:
        robot.image(3, [["cyan", "red"]], other)
        labels = pixels(robot.of_stamp(f"{other}/semantic/image_raw", 3))
        assert labels[16, [16, 48]].tolist() == [reply.ids[-1], 0]


def test_what_is_wrong_with_one_camera_is_told_of_it_alone(robot):
    bad = rgb_message(1, color_image(SMALL))
    bad.encoding = "rgb7"
    robot.listen("/diagnostics")
    robot.send("front/image", bad)
    robot.until(lambda: robot.warnings, "the warning")
    assert robot.warnings[0].startswith("front: An image is dropped")
    robot.send("left/rear/image", rgb_message(1, color_image(SMALL)))
    robot.of_stamp("left/rear/semantic/image_raw", 1)

    def told():
        for message in robot.got["/diagnostics"]:
            by_name = {status.name: status for status in message.status}
            assert set(by_name) == {"/ovs: segmentation front", "/ovs: segmentation left/rear"}
            values = {value.key: value.value for value in by_name["/ovs: segmentation front"].values}
            if values["dropped"] == "1":
                return message
        return None

    values = {
        value.key: value.value for value in robot.until(told, "the drop in diagnostics").status[1].values
    }
    assert values["dropped"] == "0"


def test_overrides_of_qos_go_by_the_cameras_topics(vocabulary):
    override = {"qos_overrides./front/image.subscription.durability": "transient_local"}
    with running(vocabulary, cameras=CAMERAS, autostart=False, **override) as robot:
        robot.node.trigger_configure()
        robot.node.trigger_activate()
        listed = robot.call(ListParameters, "ovs/list_parameters", ListParameters.Request()).result.names
        for policy in ("durability", "reliability", "history", "depth"):
            assert f"qos_overrides./front/image.subscription.{policy}" in listed
            assert f"qos_overrides./left/rear/depth.subscription.{policy}" in listed
        (info,) = robot.helper.get_subscriptions_info_by_topic("/front/image")
        assert info.qos_profile.durability.name == "TRANSIENT_LOCAL"
