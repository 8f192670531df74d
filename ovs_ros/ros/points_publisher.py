"""Publishes points, with the data of its messages kept from one to the next, as `image_publisher` does."""

from array import array

import numpy as np
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from ovs_ros.geometry.points import POINT
from ovs_ros.ros.qos import STREAM

_FIELDS = [
    PointField(name="x", offset=0, datatype=PointField.FLOAT32, count=1),
    PointField(name="y", offset=4, datatype=PointField.FLOAT32, count=1),
    PointField(name="z", offset=8, datatype=PointField.FLOAT32, count=1),
    # The bytes of 0x00RRGGBB as a float, as in PCL and depth_image_proc.
    PointField(name="rgb", offset=12, datatype=PointField.FLOAT32, count=1),
    PointField(name="label", offset=16, datatype=PointField.UINT32, count=1),
    PointField(name="confidence", offset=20, datatype=PointField.UINT8, count=1),
]
_INTENSITY = PointField(name="intensity", offset=24, datatype=PointField.FLOAT32, count=1)


class PointsPublisher:
    """A topic of points, for one thread.

    Args:
        node: publishes.
        topic: its name.
    """

    def __init__(self, node: LifecycleNode, topic: str) -> None:
        self._node = node
        self._publisher = node.create_lifecycle_publisher(PointCloud2, topic, STREAM)
        self._data = array("B")

    def destroy(self) -> None:
        """Destroy the publisher."""
        self._node.destroy_lifecycle_publisher(self._publisher)

    def wanted(self) -> bool:
        """Whether somebody subscribes to the topic."""
        return self._publisher.get_subscription_count() > 0

    def buffer(self, height: int, width: int, kind: np.dtype = POINT) -> NDArray[np.void]:
        """Where points (H, W) of dtype POINT or POINT_WITH_INTENSITY are to be written before `publish`."""
        size = height * width * kind.itemsize
        if len(self._data) != size:
            self._data = array("B", bytes(size))
        return np.frombuffer(self._data, kind).reshape(height, width)

    def publish(self, header: Header, points: NDArray[np.void]) -> None:
        """Publish the buffer, filled."""
        height, width = points.shape
        message = PointCloud2(
            header=header,
            height=height,
            width=width,
            fields=_FIELDS if points.dtype == POINT else [*_FIELDS, _INTENSITY],
            point_step=points.itemsize,
            row_step=width * points.itemsize,
        )
        message.data = self._data  # As an argument it would be copied.
        self._publisher.publish(message)
