"""One node over DDS: what it says of an input that is missing, or that it cannot hear, names the cause."""

import math
from array import array
from time import time

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.context import Context
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rig import depth_message, header, info_message, running
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from ovs_ros.ros import diagnostics

DEPTH = np.ones((32, 96), np.float32)


@pytest.fixture
def robot(vocabulary):
    with running(vocabulary, points="always") as robot:
        robot.listen("/diagnostics")
        yield robot


def told(robot, *texts, feed=lambda ms: None):
    """Stream images, and what `feed` sends beside each, until diagnostics and a warning say all the texts."""
    stamps = iter(range(1000, 10**9, 1000))

    def heard():
        ms = next(stamps)
        feed(ms)
        robot.image(ms)
        warned = [text for text in robot.warnings if all(part in text for part in texts)]
        return warned and any(
            status.level == DiagnosticStatus.WARN and all(part in status.message for part in texts)
            for message in robot.got["/diagnostics"]
            for status in message.status
        )

    robot.until(heard, f"{texts} in diagnostics and log; warnings: {robot.warnings}")


def test_depth_that_nobody_publishes(vocabulary):
    with running(vocabulary, remap={"depth": "elsewhere"}, points="always") as robot:
        robot.listen("/diagnostics")
        told(robot, "no depth for", "nobody publishes /elsewhere", "remap 'depth'")


def test_depth_whose_stamps_do_not_match(robot):
    told(
        robot,
        "no depth for",
        "0.350 s behind its image",
        "sync_slop allows 0.02 s",
        feed=lambda ms: robot.send("depth", depth_message(ms - 350, DEPTH)),
    )


def test_depth_without_a_calibration(robot):
    told(robot, "no camera_info for", feed=lambda ms: robot.send("depth", depth_message(ms, DEPTH)))


def test_a_calibration_that_was_published_once_before_the_node_started(vocabulary):
    with running(vocabulary, autostart=False) as robot:
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        robot.helper.create_publisher(CameraInfo, "camera_info", latched).publish(info_message(1))
        robot.node.trigger_configure()
        robot.node.trigger_activate()
        robot.until(lambda: robot.camera.camera_info, "the calibration")


@pytest.fixture
def no_silence_yet(monkeypatch):
    """The node says nothing of missing images until a test calls `silent`."""
    monkeypatch.setattr(diagnostics, "SILENCE_S", math.inf)
    return monkeypatch


def silent(robot, patch, *texts, publishers=1):
    """Wait until the node knows the topic's publishers, and then until it tells why no image comes."""
    robot.until(lambda: robot.node.count_publishers("/camera/raw") == publishers, "the publishers")
    patch.setattr(diagnostics, "SILENCE_S", 0.0)
    robot.listen("/diagnostics")
    robot.until(
        lambda: any(
            all(part in status.message for part in texts)
            for message in robot.got["/diagnostics"]
            for status in message.status
        ),
        f"{texts} in diagnostics",
    )
    assert any(all(part in warning for part in texts) for warning in robot.warnings)


def test_images_that_nobody_publishes(vocabulary, no_silence_yet):
    with running(vocabulary, remap={"image": "/camera/raw"}) as robot:
        silent(robot, no_silence_yet, "nobody publishes /camera/raw", "remap 'image'", publishers=0)


def test_a_topic_of_another_type(vocabulary, no_silence_yet):
    with running(vocabulary, remap={"image": "/camera/raw"}) as robot:
        # One participant takes a topic's name for one type only.
        context = Context()
        context.init(domain_id=robot.helper.context.get_domain_id())
        camera = Node("camera", context=context)
        camera.create_publisher(CompressedImage, "/camera/raw", 1)
        silent(
            robot,
            no_silence_yet,
            "/camera/raw is of type sensor_msgs/msg/CompressedImage, not sensor_msgs/msg/Image",
            "set the parameter image_transport",
        )
        camera.destroy_node()
        context.try_shutdown()


def test_a_publisher_whose_qos_does_not_match(vocabulary, no_silence_yet):
    override = "qos_overrides./camera/raw.subscription.reliability"
    with running(vocabulary, remap={"image": "/camera/raw"}, **{override: "reliable"}) as robot:
        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        robot.helper.create_publisher(Image, "/camera/raw", qos)
        silent(robot, no_silence_yet, "the QoS of /camera/raw does not match", override)


@pytest.mark.fault("images have stamps of another clock", "WARN in /diagnostics with the likely cause")
@pytest.mark.parametrize("offset", [-10_000, 60_000])
def test_stamps_of_another_clock(robot, offset):
    def heard():
        robot.image(round(time() * 1000) + offset)
        return any("node's clock" in m.status[0].message for m in robot.got["/diagnostics"])

    robot.until(heard, "the warning")


def test_an_override_of_a_topic_that_is_not_subscribed_to(vocabulary):
    override = "qos_overrides./camera/raw.subscription.reliability"
    with running(vocabulary, **{override: "reliable"}) as robot:
        robot.until(lambda: robot.warnings, "a report of the override")
        (said,) = robot.warnings
    assert f"The parameter '{override}' does not exist" in said and "/image" in said


def test_a_camera_whose_sixteen_bits_are_not_all_in_use(robot, capfd):
    for ms, highest in ((1000, 1023), (2000, 200)):
        data = array("B", np.full((32, 96), highest, "<u2").tobytes())
        robot.send(
            "image", Image(header=header(ms), width=96, height=32, encoding="mono16", step=192, data=data)
        )
        robot.labels(ms)
    assert capfd.readouterr().err.count("use 10 bits") == 1


@pytest.mark.fault("ROS time stops, goes back or is missing", "/diagnostics goes on, and names the cause")
def test_diagnostics_go_on_whatever_ros_time_does(vocabulary):
    with running(vocabulary, use_sim_time=True) as robot:
        clock = robot.helper.create_publisher(Clock, "/clock", 10)
        robot.until(lambda: clock.get_subscription_count() > 0, "the node's subscription of /clock")
        robot.listen("/diagnostics")

        def goes_on():
            count = len(robot.got["/diagnostics"])
            robot.until(lambda: len(robot.got["/diagnostics"]) > count + 1, "/diagnostics")

        goes_on()  # Without a time.
        for second in (1000, 10):
            clock.publish(Clock(clock=Time(sec=second)))
            robot.until(
                lambda now=second: robot.node.get_clock().now().nanoseconds == now * 10**9, f"time {second}"
            )
            goes_on()
        robot.segment(5000)
        robot.until(
            lambda: any("5.0 s behind" in m.status[0].message for m in robot.got["/diagnostics"]), "their age"
        )
