"""One node over DDS that carries labels from key frame to frame, with an encoder that waits for the test."""

import threading

import cv2
import numpy as np
import pytest
from lifecycle_msgs.msg import Transition
from rig import DEADLINE_S, depth_message, info_message, pixels, pose_message, running, stamp_ms
from test_node_lifecycle import change
from test_node_parameters import set_parameter

from ovs_ros.options import NodeOptions
from ovs_ros.ros import worker
from ovs_ros.srv import SetVocabulary

USUAL = [["red", "green", "blue"]]
CUT = [["white", "red", "yellow"]]
DEPTH = np.full((32, 96), 2.0, np.float32)


class Encoder:
    """Lets a frame pass for each `go_on`; after `run` all of them."""

    def __init__(self):
        self._passes = threading.Semaphore(0)
        self.started = threading.Semaphore(0)
        self._free = False

    def __call__(self):
        self.started.release()
        if not self._free:
            assert self._passes.acquire(timeout=2 * DEADLINE_S)

    def go_on(self):
        self._passes.release()

    def run(self):
        self._free = True
        self._passes.release(100)


@pytest.fixture
def encoder():
    encoder = Encoder()
    yield encoder
    encoder.run()


@pytest.fixture
def robot(vocabulary, encoder):
    with running(vocabulary, on_backbone=encoder, propagate="flow") as robot:
        yield robot
        encoder.run()


def key_of(categories):
    """The stamp of the key frame, in milliseconds."""
    return categories.key_stamp.sec * 1000 + categories.key_stamp.nanosec // 1_000_000


def first_key(robot, encoder, ms=1000):
    """Send a frame, let it be segmented, and wait for its labels."""
    robot.image(ms)
    encoder.go_on()
    robot.labels(ms)
    assert encoder.started.acquire(timeout=DEADLINE_S)
    return robot.of_stamp("semantic/categories", ms)


def stamps(robot):
    return [stamp_ms(message) for message in robot.got["semantic/image_raw"]]


def test_frames_get_the_key_frames_labels_while_the_encoder_works(robot, encoder):
    robot.listen("semantic/color", "/diagnostics")
    robot.connected()
    key = first_key(robot, encoder)
    assert (key.propagated, key_of(key)) == (False, 1000) and "encode" in key.stages
    for ms in (1033, 1066, 1900):
        labels = robot.segment(ms)
        assert (pixels(labels) == pixels(robot.labels(1000))).all()
        carried = robot.of_stamp("semantic/categories", ms)
        assert (carried.propagated, key_of(carried)) == (True, 1000)
        assert list(carried.stages) == ["convert", "propagate", "publish"]
        assert list(carried.names) == list(key.names) and list(carried.shares) == list(key.shares)
        color, confidence = (robot.of_stamp(f"semantic/{name}", ms) for name in ("color", "confidence"))
        assert (pixels(color)[16, 16] == pixels(robot.of_stamp("semantic/color", 1000))[16, 16]).all()
        before = pixels(robot.of_stamp("semantic/confidence", 1000)).astype(int)
        assert 0 <= (before - pixels(confidence)).mean() < 20
    assert (before - pixels(confidence)).mean() > 5, "of a key frame that is 0.9 s old"
    # The frame in the encoder was published long ago: its result is for those after it.
    encoder.go_on()
    robot.until(lambda: key_of(follow_up(robot)) > 1000, "a frame with the labels of the second key frame")
    assert stamps(robot) == sorted(set(stamps(robot)))

    def figures():
        status = robot.got["/diagnostics"][-1].status[0] if robot.got["/diagnostics"] else None
        return status and {value.key: value.value for value in status.values}

    found = robot.until(
        lambda: (f := figures()) and float(f["propagated rate [Hz]"]) > 0.2 and f, "the rates"
    )
    assert float(found["key frame rate [Hz]"]) > 0 and "stage encode [ms]" in found


def follow_up(robot):
    """Send one more frame: its categories."""
    ms = max(stamps(robot)) + 33
    robot.segment(ms)
    return robot.of_stamp("semantic/categories", ms)


def test_after_a_cut_a_frame_waits_for_its_own_labels(robot, encoder):
    first_key(robot, encoder)
    robot.segment(1033)
    for number, ms in enumerate((1066, 1100), 3):
        robot.image(ms, CUT)
        robot.until(lambda count=number: robot.camera.statistics.images == count, "the image")
    encoder.go_on()  # 1033, from before the cut
    encoder.go_on()
    labels = robot.until(lambda: robot.got["semantic/image_raw"][2:], "the labels after the cut")[0]
    assert stamp_ms(labels) in (1066, 1100) and (pixels(labels)[:, 40:56] == 0).all()
    assert not robot.of_stamp("semantic/categories", stamp_ms(labels)).propagated
    dropped = robot.camera.statistics.summary().dropped
    assert set(dropped) <= {"no key frame fits", "replaced by a newer one"}


def test_new_words_wait_for_their_first_key_frame_and_no_frame_is_dropped(robot, encoder):
    first_key(robot, encoder)
    robot.segment(1033)
    assert encoder.started.acquire(timeout=DEADLINE_S)  # Frame 1033 has the old words.
    request = SetVocabulary.Request(mode=SetVocabulary.Request.ADD, names=["cyan"])
    assert robot.call(SetVocabulary, "ovs/set_vocabulary", request).version == 2
    robot.segment(1066)
    assert robot.of_stamp("semantic/categories", 1066).version == 1
    encoder.run()
    robot.until(lambda: follow_up(robot).version == 2, "the new words")
    versions = [int(info.header.frame_id.partition("/")[2]) for info in robot.got["semantic/label_info"]]
    assert versions == [1, 2]
    assert stamps(robot) == sorted(set(stamps(robot)))
    assert robot.camera.statistics.summary().dropped == {}


def test_words_are_announced_soon_though_no_frame_comes(robot, encoder):
    first_key(robot, encoder)
    request = SetVocabulary.Request(mode=SetVocabulary.Request.ADD, names=["cyan"])
    assert robot.call(SetVocabulary, "ovs/set_vocabulary", request).success
    robot.until(lambda: len(robot.got["semantic/label_info"]) == 2, "the new words")


def test_old_key_frames_and_stamps_that_go_back_are_not_carried_on(robot, encoder):
    first_key(robot, encoder, ms=5000)
    encoder.run()
    for ms in (9000, 1000):
        robot.segment(ms)
        assert key_of(robot.of_stamp("semantic/categories", ms)) == ms


def test_memory_ends_with_the_activation(robot, encoder):
    first_key(robot, encoder)
    assert change(robot, Transition.TRANSITION_DEACTIVATE)
    assert change(robot, Transition.TRANSITION_ACTIVATE)
    robot.connected()
    encoder.run()
    robot.segment(1033)
    assert not robot.of_stamp("semantic/categories", 1033).propagated


@pytest.mark.fault(
    "the model hangs",
    "/diagnostics warns, then tells ERROR with the place; the node can be deactivated, cleaned up and ended "
    "within 5 s, and configured anew",
)
def test_an_encoder_that_hangs_stops_neither_the_frames_nor_the_node(robot, encoder, monkeypatch):
    monkeypatch.setattr(worker, "STOPPING_S", 0.2)
    first_key(robot, encoder)
    robot.segment(1033)
    assert encoder.started.acquire(timeout=DEADLINE_S)
    robot.segment(1066)
    assert change(robot, Transition.TRANSITION_DEACTIVATE)
    assert not change(robot, Transition.TRANSITION_ACTIVATE)
    encoder.run()
    robot.until(lambda: change(robot, Transition.TRANSITION_ACTIVATE), "the end of the frame")
    robot.connected()
    assert stamp_ms(robot.segment(1100)) == 1100


@pytest.mark.fault("the worker's thread dies", "it is started again and counted; ERROR in /diagnostics")
def test_an_encoder_thread_that_dies_is_started_again(vocabulary):
    deaths = []

    def die():
        if not deaths:
            deaths.append(1)
            raise SystemExit("killed by the model")

    with running(vocabulary, on_backbone=die, propagate="flow") as robot:
        robot.image(1000)
        robot.until(lambda: deaths, "the death")
        robot.image(1033)
        robot.until(lambda: stamps(robot), "labels")
        assert robot.segment(1066)


def test_each_camera_has_its_own_key_frame(vocabulary, encoder):
    with running(vocabulary, on_backbone=encoder, propagate="flow", cameras=["front", "rear"]) as robot:
        robot.image(1000, USUAL, "front")
        robot.image(1001, [["blue", "red", "green"]], "rear")
        for _ in range(2):
            encoder.go_on()
        for camera, ms in (("front", 1000), ("rear", 1001)):
            robot.of_stamp(f"{camera}/semantic/image_raw", ms)
        robot.image(1033, USUAL, "front")
        robot.image(1034, [["blue", "red", "green"]], "rear")
        for camera, ms, label in (("front", 1033, 0), ("rear", 1034, 2)):
            carried = robot.of_stamp(f"{camera}/semantic/image_raw", ms)
            assert (pixels(carried)[8:24, 8:24] == label).all()
            assert robot.of_stamp(f"{camera}/semantic/categories", ms).propagated
        encoder.run()


def test_points_views_and_the_robots_body_have_the_carried_labels(vocabulary, encoder, tmp_path):

    body = np.zeros((32, 96), np.uint8)
    body[20:] = 255
    cv2.imwrite(str(tmp_path / "body.png"), body)
    view = tmp_path / "mine.yaml"
    view.write_text("unknown: 0\nrest: 1\nclasses: [{name: red, value: 7}]\n")
    given = {"views": [str(view)], "body_mask": [str(tmp_path / "body.png")], "sync_slop": 0.001}
    with running(vocabulary, on_backbone=encoder, propagate="flow", points="always", **given) as robot:
        robot.listen("semantic/points", "semantic/views/mine/mask")
        robot.connected()
        robot.send("camera_info", info_message(1))
        robot.until(lambda: robot.camera.camera_info, "the calibration")
        for ms in (1000, 1033):
            robot.send("depth", depth_message(ms, DEPTH))
            robot.image(ms)
            if ms == 1000:
                encoder.go_on()
            labels = pixels(robot.labels(ms))
            assert (labels[20:] == 255).all() and (labels[:16, :24] == 0).all()
            mask = pixels(robot.of_stamp("semantic/views/mine/mask", ms))
            assert (mask[:16, :24] == 7).all() and (mask[20:] == 0).all()
            points = robot.of_stamp("semantic/points", ms)
            label = np.frombuffer(points.data, "<u4").reshape(32, 96, -1)[..., 4]
            assert (label[:20] == labels[:20]).all()
        assert robot.of_stamp("semantic/categories", 1033).propagated
        encoder.run()


def test_depth_and_poses_tell_where_labels_go(vocabulary, encoder):
    with running(vocabulary, on_backbone=encoder, propagate="depth", sync_slop=0.001) as robot:
        robot.send("camera_info", info_message(1))
        robot.until(lambda: robot.camera.camera_info, "the calibration")

        def send(ms, x, picture=USUAL):
            robot.send("depth", depth_message(ms, DEPTH))
            robot.send("pose", pose_message(ms, x))
            robot.image(ms, picture)

        send(1000, 0.0)
        encoder.go_on()
        assert not robot.until(lambda: robot.of_stamp("semantic/categories", 1000), "a key").propagated
        send(1033, 0.32)  # By 16 of 96 pixels to the right, at two metres and a focal length of 100.
        labels = pixels(robot.labels(1033))
        assert (labels[8:24, :14] == 0).all() and (labels[8:24, 18:46] == 1).all()
        assert robot.of_stamp("semantic/categories", 1033).propagated
        # Nothing of the key frame is left in the picture; a frame without pose is segmented itself, too.
        encoder.run()
        send(1066, 5.0)
        assert not robot.until(lambda: robot.of_stamp("semantic/categories", 1066), "a key").propagated
        robot.image(1100)
        assert not robot.until(lambda: robot.of_stamp("semantic/categories", 1100), "a key").propagated
        (text,) = robot.until(lambda: robot.warnings, "a warning")
        assert "No labels can be carried to a frame: expected depth whose stamp" in text


def test_the_temporal_filter_works_on_key_frames(tmp_path, encoder):
    words = tmp_path / "colours.yaml"
    words.write_text("categories: [red, green, blue, brown]\n")
    slip = [["brown", "green", "blue"]]  # Red and brown are the same grey.
    with running(str(words), propagate="flow", temporal_filter="flow") as robot:
        keys = 0
        for ms in range(1000, 3000, 40):
            robot.segment(ms, slip if keys > 3 else USUAL)
            keys = len({key_of(message) for message in robot.got["semantic/categories"]})
            if keys > 4:
                break
        assert (pixels(robot.labels(ms))[8:24, 8:24] == 0).all(), "one slip is outvoted"
        assert not set_parameter(robot, "temporal_filter", "pose").successful


def test_both_must_follow_the_same_motion():
    with pytest.raises(ValueError, match="expected temporal_filter to be one of off, pose with propagate"):
        NodeOptions(propagate="depth", temporal_filter="flow")
    assert NodeOptions(propagate=False).propagate == "off"


def test_all_frames_come_out_in_order_whatever_the_encoder_does(vocabulary):
    rng = np.random.default_rng(0)
    waits = threading.Event()

    def dawdle():
        waits.wait(float(rng.uniform(0, 0.06)))

    with running(vocabulary, on_backbone=dawdle, propagate="flow") as robot:
        for number in range(40):
            ms = 1000 + 33 * number
            robot.image(ms, CUT if number == 25 else USUAL)
            robot.until(lambda count=number + 1: robot.camera.statistics.images == count, "the image")
        robot.until(lambda: 1000 + 33 * 39 in stamps(robot), "the last frame")
        assert stamps(robot) == sorted(set(stamps(robot)))
        for message in robot.got["semantic/categories"]:
            assert message.propagated == (key_of(message) < stamp_ms(message))

        def dropped():
            return sum(robot.camera.statistics.summary().dropped.values())

        robot.until(lambda: len(stamps(robot)) + dropped() == 40, "an account of all frames")
