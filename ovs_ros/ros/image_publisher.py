"""Publishes images whose data are kept from frame to frame.

rclpy copies a message's data when it publishes, so that the buffer is free again afterwards. It is an
array.array, filled through a NumPy view: rclpy checks every element of any other type, which takes seconds.
"""

from array import array

import numpy as np
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from ovs_ros.ros.qos import STREAM


class ImagePublisher:
    """One topic of images. For one thread.

    Args:
        node: publishes.
        topic: its name.
    """

    def __init__(self, node: LifecycleNode, topic: str) -> None:
        self._node = node
        self._publisher = node.create_lifecycle_publisher(Image, topic, STREAM)
        self._data = array("B")

    def destroy(self) -> None:
        """Destroy the publisher."""
        self._node.destroy_lifecycle_publisher(self._publisher)

    def wanted(self) -> bool:
        """Whether somebody subscribes."""
        return self._publisher.get_subscription_count() > 0

    def publish(self, header: Header, pixels: NDArray, encoding: str) -> None:
        """Publish C-contiguous pixels (H, W) or (H, W, C) without row padding."""
        little = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False)
        if len(self._data) != little.nbytes:
            self._data = array("B", bytes(little.nbytes))
        np.frombuffer(self._data, np.uint8)[:] = little.reshape(-1).view(np.uint8)
        message = Image(
            header=header,
            height=pixels.shape[0],
            width=pixels.shape[1],
            encoding=encoding,
            step=pixels.strides[0],
        )
        message.data = self._data  # As an argument it would be copied.
        self._publisher.publish(message)
