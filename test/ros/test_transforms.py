"""tf over DDS, in a node whose own executor never spins."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, sleep

import numpy as np
import pytest
from domain import own_context
from rclpy.node import Node
from tf_messages import TfSender, matrix, transform

from ovs_ros.ros.conversions import ConversionError
from ovs_ros.ros.transforms import Transforms

S = 1_000_000_000


class Tf(TfSender):
    """Sends transforms, and asks a listener about them until they have arrived."""

    def __init__(self, node: Node, transforms: Transforms) -> None:
        super().__init__(node, "tf")
        self.transforms = transforms
        end = monotonic() + 10
        while not (self.moving.get_subscription_count() and self.static.get_subscription_count()):
            assert monotonic() < end
            sleep(0.005)

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
    assert "static_transform_publisher --frame-id 'camera' --child-frame-id 'lidar'" in text


def test_a_lookup_waits_for_the_transform_that_is_on_its_way():
    with tf() as robot:
        robot.send(transform("odom", "base", 1.0), transform("odom", "base", 2.0))
        robot.between("odom", 2 * S, "base", 2 * S)
        with pytest.raises(ConversionError, match="extrapolation into the future"):
            robot.transforms.between("odom", 3 * S, "base", 3 * S)
        robot.send(transform("odom", "base", 3.5, (3, 0, 0)))
        assert robot.between("odom", 3 * S, "base", 3 * S)[0, 3] == pytest.approx(2)
