"""Frames and what belongs to them. Times are milliseconds."""

import threading
from time import monotonic

import pytest
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped
from hypothesis import given
from hypothesis import strategies as st
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from ovs_ros.ros.frames import FrameQueue
from ovs_ros.ros.inputs import ABOVE_MAX_RATE, KEPT, REPLACED, Inputs

KINDS = {"depth": Image, "pose": PoseStamped, "camera_info": CameraInfo}


def header(ms):
    return Header(stamp=Time(sec=ms // 1000, nanosec=ms % 1000 * 1_000_000))


def image(ms):
    return Image(header=header(ms))


def message(name, ms):
    return KINDS[name](header=header(ms))


def ms(message):
    return message and message.header.stamp.sec * 1000 + message.header.stamp.nanosec // 1_000_000


class OneCamera(Inputs):
    """The inputs of the only camera, and its queue."""

    def __init__(self, slop=0.02, max_rate=0.0):
        self.queue = FrameQueue()
        super().__init__(slop, self.queue, max_rate=lambda: max_rate)

    def take(self):
        taken = self.queue.take()
        return taken[0][1] if taken else None


@pytest.fixture
def inputs():
    return OneCamera()


def later(action):
    timer = threading.Timer(0.05, action)
    timer.daemon = True
    timer.start()


def test_the_newest_frame_wins(inputs):
    assert [inputs.put_image(image(i)) for i in (1, 2, 3)] == ["", REPLACED, REPLACED]
    assert ms(inputs.take().image) == 3
    assert inputs.put_image(image(4)) == ""


def test_images_above_the_rate_are_dropped_but_for_a_newer_one_than_waits():
    inputs = OneCamera(max_rate=0.001)
    assert [inputs.put_image(image(i)) for i in (1, 2)] == ["", REPLACED]
    assert ms(inputs.take().image) == 2
    assert inputs.put_image(image(3)) == ABOVE_MAX_RATE
    assert inputs.put_image(image(4)) == ABOVE_MAX_RATE


@pytest.mark.parametrize(("action", "expected"), [("put_image", 7), ("wake", None), ("close", None)])
def test_take_waits_until_something_happens(inputs, action, expected):
    later(lambda: inputs.put_image(image(7)) if action == "put_image" else getattr(inputs.queue, action)())
    frame = inputs.take()
    assert (frame and ms(frame.image)) == expected


def test_closing_drops_the_frame_and_holds_for_ever(inputs):
    inputs.put_image(image(1))
    inputs.queue.close()
    assert inputs.queue.closed
    assert inputs.take() is None
    assert inputs.take() is None


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("when", ["before the image", "while it waits", "at work"])
def test_a_frame_takes_what_comes_with_its_stamp(inputs, name, when):
    inputs.put(name, message(name, 50))
    if when == "before the image":
        inputs.put(name, message(name, 100))
    inputs.put_image(image(100))
    if when == "while it waits":
        inputs.put(name, message(name, 100))
    frame = inputs.take()
    if when == "at work":
        inputs.put(name, message(name, 100))
    inputs.put(name, message(name, 150))
    assert ms(getattr(frame, name)) == 100
    assert ms(inputs.wait_for(frame, name)) == 100


@pytest.mark.parametrize("name", KINDS)
def test_nothing_that_comes_later_pushes_out_what_a_frame_has(inputs, name):
    inputs.put(name, message(name, 100))
    inputs.put_image(image(100))
    frame = inputs.take()
    for later_ms in range(133, 133 + 33 * 3 * KEPT[name], 33):
        inputs.put(name, message(name, later_ms))
        inputs.put_image(image(later_ms))
    assert ms(getattr(frame, name)) == 100
    assert ms(getattr(inputs.take(), name)) == later_ms


@given(st.permutations([71, 85, 98, 103, 119, 140]), st.integers(0, 6))
def test_the_nearest_depth_within_the_slop_is_taken_in_whatever_order(stamps, before):
    inputs = OneCamera()
    for stamp in stamps[:before]:
        inputs.put("depth", message("depth", stamp))
    inputs.put_image(image(100))
    for stamp in stamps[before:]:
        inputs.put("depth", message("depth", stamp))
    assert ms(inputs.take().depth) == 98


def test_depth_outside_the_slop_belongs_to_no_frame(inputs):
    inputs.put("depth", message("depth", 79))
    inputs.put_image(image(100))
    inputs.put("depth", message("depth", 121))
    assert inputs.wait_for(inputs.take(), "depth") is None


def test_a_calibration_of_another_stamp_holds_until_the_next_one(inputs):
    inputs.put("camera_info", message("camera_info", 5))
    inputs.put("camera_info", message("camera_info", 0))  # It came later, whatever its stamp.
    inputs.put_image(image(5000))
    assert ms(inputs.take().camera_info) == 0
    assert ms(inputs.newest("camera_info")) == 0


def test_stamps_may_go_back_and_lie_before_1970(inputs):
    for start in (50_000, 10_000, -5_000):
        for i in range(20):
            inputs.put("depth", message("depth", start + i * 100))
            inputs.put_image(image(start + i * 100))
            assert ms(inputs.take().depth) == start + i * 100


def test_depth_may_come_after_the_frame_is_done(inputs):
    inputs.put_image(image(5))
    frame = inputs.take()
    later(lambda: inputs.put("depth", message("depth", 5)))
    assert ms(inputs.wait_for(frame, "depth", timeout=10)) == 5


def test_a_frame_that_was_at_work_before_is_completed_with_what_came_since(inputs):
    inputs.put_image(image(100))
    frame = inputs.take()
    inputs.put_image(image(133))
    inputs.take()
    inputs.put("depth", message("depth", 101))
    assert frame.depth is None
    inputs.complete(frame)
    assert ms(frame.depth) == 101


def test_a_newer_frame_ends_the_waiting_where_depth_never_comes(inputs):
    inputs.put_image(image(5))
    frame = inputs.take()
    later(lambda: inputs.put_image(image(6)))
    start = monotonic()
    assert inputs.wait_for(frame, "depth", timeout=10) is None
    assert monotonic() - start < 5


def test_a_frame_of_another_camera_ends_the_waiting_too():
    queue = FrameQueue(2)
    front, rear = (Inputs(0.02, queue, camera) for camera in range(2))
    front.put_image(image(5))
    ((camera, frame),) = queue.take()
    later(lambda: rear.put_image(image(6)))
    start = monotonic()
    assert camera == 0 and front.wait_for(frame, "depth", timeout=10) is None
    assert monotonic() - start < 5


def test_messages_go_to_the_frames_of_their_own_camera():
    queue = FrameQueue(2)
    front, rear = (Inputs(0.02, queue, camera) for camera in range(2))
    for inputs in (front, rear):
        inputs.put_image(image(5))
    front.put("depth", message("depth", 5))
    depths = {camera: frame.depth for camera, frame in queue.take(2)}
    assert ms(depths[0]) == 5 and depths[1] is None


def test_a_newer_frame_does_not_end_the_waiting_where_depth_comes_a_little_later(inputs, monkeypatch):
    """A model that is faster than depth: without this, no frame would ever get its depth."""
    for name in ("WAIT_S", "PAIRED_LATELY_S"):  # A busy machine is slower than a robot may be.
        monkeypatch.setattr(f"ovs_ros.ros.inputs.{name}", 10.0)
    found = []
    for stamp in range(0, 600, 100):
        inputs.put_image(image(stamp))
        frame = inputs.take()
        inputs.put_image(image(stamp + 50))
        later(lambda stamp=stamp: inputs.put("depth", message("depth", stamp)))
        found.append(inputs.wait_for(frame, "depth", timeout=5) is not None)
        while not inputs.newest("depth") or ms(inputs.newest("depth")) != stamp:
            pass
    assert not found[0] and all(found[1:])


def test_depth_that_is_past_the_frame_ends_the_waiting(inputs):
    inputs.put_image(image(5))
    frame = inputs.take()
    inputs.put("depth", message("depth", 500))
    start = monotonic()
    assert inputs.wait_for(frame, "depth", timeout=10) is None
    assert monotonic() - start < 5


def test_what_is_missing_is_told_with_the_offset_of_its_stamps(inputs):
    assert inputs.missing() == []
    inputs.put("depth", message("depth", 650))
    inputs.put_image(image(1000))
    assert inputs.wait_for(inputs.take(), "depth", timeout=0) is None
    (missing,) = inputs.missing()
    assert (missing.name, missing.offset, missing.late) == ("depth", pytest.approx(-0.35), None)
    assert missing.seconds < 5 and missing.silence < 5
    inputs.put("depth", message("depth", 1100))
    inputs.put_image(image(1100))
    inputs.wait_for(inputs.take(), "depth")
    assert inputs.missing() == []


def test_what_never_came_is_told(inputs):
    inputs.put_image(image(1000))
    inputs.wait_for(inputs.take(), "depth", timeout=0)
    (missing,) = inputs.missing()
    assert missing.silence is None and missing.offset is None


def test_depth_that_comes_too_late_is_told_with_its_delay(inputs):
    inputs.put_image(image(1000))
    inputs.wait_for(inputs.take(), "depth", timeout=0)
    inputs.put("depth", message("depth", 1000))
    (missing,) = inputs.missing()
    assert missing.late < 5


def test_what_nobody_wants_any_more_is_not_missing(inputs):
    inputs.put_image(image(1000))
    inputs.wait_for(inputs.take(), "depth", timeout=0)
    assert inputs.missing(recent_s=0) == []
