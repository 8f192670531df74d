"""tf over DDS, in a node whose own executor never spins."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, sleep

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from domain import own_context
from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from ovs_ros.ros.conversions import ConversionError
from ovs_ros.ros.transforms import Transforms

LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
S = 1_000_000_000


def transform(parent, child, seconds=0.0, shift=(0.0, 0.0, 0.0), turn=(0.0, 0.0, 0.0)):
    """A motion by a shift and a rotation vector."""
    angle = float(np.linalg.norm(turn))
    x, y, z = np.asarray(turn) / (angle or 1) * np.sin(angle / 2)
    stamp = Time(sec=int(seconds), nanosec=round(seconds % 1 * S))
    return TransformStamped(
        header=Header(frame_id=parent, stamp=stamp),
        child_frame_id=child,
        transform=Transform(
            translation=Vector3(x=float(shift[0]), y=float(shift[1]), z=float(shift[2])),
            rotation=Quaternion(x=float(x), y=float(y), z=float(z), w=float(np.cos(angle / 2))),
        ),
    )


def matrix(shift, turn):
    result = np.eye(4)
    result[:3, :3], result[:3, 3] = cv2.Rodrigues(np.asarray(turn, float))[0], shift
    return result


class Tf:
    """Sends transforms, and asks a listener about them until they have arrived."""

    def __init__(self, node: Node, transforms: Transforms) -> None:
        self.transforms = transforms
        self._moving = node.create_publisher(TFMessage, "tf", 100)
        self._static = node.create_publisher(TFMessage, "/tf_static", LATCHED)

    def send(self, *transforms: TransformStamped, static: bool = False) -> None:
        publisher, end = self._static if static else self._moving, monotonic() + 10
        while not publisher.get_subscription_count():
            assert monotonic() < end
            sleep(0.005)
        publisher.publish(TFMessage(transforms=transforms))

    def between(self, *arguments) -> np.ndarray:
        end = monotonic() + 10
        while True:
            try:
                return self.transforms.between(*arguments)
            except ConversionError:
                assert monotonic() < end


@contextmanager
def tf() -> Iterator[Tf]:
    with own_context() as context:
        node = Node(
            "robot", context=context, cli_args=["--ros-args", "-r", "/tf:=/robot/tf", "-r", "tf:=/robot/tf"]
        )
        transforms = Transforms(node)
        try:
            yield Tf(node, transforms)
        finally:
            transforms.close()
            node.destroy_node()


def test_a_chain_of_static_and_moving_frames():
    with tf() as robot:
        lidar, camera = ((0.1, 0.2, 0.9), (0, 0, 0.3)), ((0.3, 0, 0.5), (-1.2, 1.2, -1.2))
        robot.send(
            transform("base", "lidar", 0, *lidar), transform("base", "camera", 0, *camera), static=True
        )
        found = robot.between("camera", 5 * S, "lidar", 5 * S)
        np.testing.assert_allclose(found, np.linalg.inv(matrix(*camera)) @ matrix(*lidar), atol=1e-9)
        # The robot drives 1 m and turns between the image and the cloud.
        robot.send(transform("odom", "base", 4.0), transform("odom", "base", 6.0, (2, 0, 0), (0, 0, 0.4)))
        robot.between("odom", 5 * S, "base", 5 * S)
        found = robot.between("camera", 4 * S, "lidar", 5 * S, "odom")
        there = matrix((1, 0, 0), (0, 0, 0.2)) @ matrix(*lidar)
        np.testing.assert_allclose(found, np.linalg.inv(matrix(*camera)) @ there, atol=1e-9)


def test_without_the_fixed_frame_both_are_taken_at_one_time():
    with tf() as robot:
        robot.send(transform("base", "lidar", 0, (1, 2, 3)), static=True)
        robot.send(transform("base", "arm", 1.0), transform("base", "arm", 2.0, (0, 0, 1)))
        found = robot.between("arm", 1 * S, "lidar", int(1.5 * S), "odom")
        np.testing.assert_allclose(found[:3, 3], (1, 2, 2.5))


def test_what_is_missing_is_named_with_a_remedy():
    with tf() as robot, pytest.raises(ConversionError) as caught:
        robot.transforms.between("camera", 5 * S, "lidar", 5 * S, "odom")
    text = str(caught.value)
    assert "expected a transform from 'lidar' to 'camera' in tf, got none" in text
    assert "static_transform_publisher --frame-id camera --child-frame-id lidar" in text


def test_a_lookup_waits_for_the_transform_that_is_on_its_way():
    with tf() as robot:
        robot.send(transform("odom", "base", 1.0), transform("odom", "base", 2.0))
        robot.between("odom", 2 * S, "base", 2 * S)
        with pytest.raises(ConversionError, match="extrapolation into the future"):
            robot.transforms.between("odom", 3 * S, "base", 3 * S)
        robot.send(transform("odom", "base", 3.5, (3, 0, 0)))
        assert robot.between("odom", 3 * S, "base", 3 * S)[0, 3] == pytest.approx(2)
