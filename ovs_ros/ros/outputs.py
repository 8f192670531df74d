"""What leaves the node: publishers, and messages whose buffers are kept from frame to frame.

rclpy copies a message's data when it publishes, so that the buffers are free again afterwards. They are
array.array, filled through NumPy views: rclpy checks every element of any other type, which takes seconds.
"""

from array import array
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, PointCloud2, PointField
from std_msgs.msg import Header
from vision_msgs.msg import LabelInfo, VisionClass

from ovs_ros.geometry.points import POINT
from ovs_ros.msg import FrameCategories
from ovs_ros.render import colorize, overlay
from ovs_ros.steps.segmentation import Segmentation
from ovs_ros.vocabulary.vocabulary import Vocabulary

STREAM = QoSProfile(depth=2, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
_POINT_FIELDS = [
    PointField(name="x", offset=0, datatype=PointField.FLOAT32, count=1),
    PointField(name="y", offset=4, datatype=PointField.FLOAT32, count=1),
    PointField(name="z", offset=8, datatype=PointField.FLOAT32, count=1),
    # The bytes of 0x00RRGGBB as a float, as PCL and depth_image_proc have it.
    PointField(name="rgb", offset=12, datatype=PointField.FLOAT32, count=1),
    PointField(name="label", offset=16, datatype=PointField.UINT32, count=1),
    PointField(name="confidence", offset=20, datatype=PointField.UINT8, count=1),
]


class _Buffer:
    """Bytes of a message; its `data` keeps one object as long as the size stays."""

    def __init__(self) -> None:
        self.data = array("B")

    def sized(self, size: int) -> NDArray[np.uint8]:
        """A view (size,) uint8 of the data."""
        if len(self.data) != size:
            self.data = array("B", bytes(size))
        return np.frombuffer(self.data, np.uint8)


class _ImageOutput:
    """One image topic."""

    def __init__(self, node: LifecycleNode, topic: str) -> None:
        self.publisher = node.create_lifecycle_publisher(Image, topic, STREAM)
        self._buffer = _Buffer()
        self._message = Image()

    @property
    def wanted(self) -> bool:
        return self.publisher.get_subscription_count() > 0

    def publish(self, header: Header, pixels: NDArray, encoding: str) -> None:
        """Publish C-contiguous pixels (H, W) or (H, W, C) without row padding."""
        message = self._message
        message.header = header
        message.height, message.width = pixels.shape[:2]
        message.encoding = encoding
        message.step = pixels.strides[0]
        little = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False)
        self._buffer.sized(little.nbytes)[:] = little.reshape(-1).view(np.uint8)
        message.data = self._buffer.data
        self.publisher.publish(message)


class Outputs:
    """All topics of one camera. Its methods are for one thread, the worker's."""

    def __init__(self, node: LifecycleNode) -> None:
        self._node = node
        self._labels = _ImageOutput(node, "semantic/image_raw")
        self._confidence = _ImageOutput(node, "semantic/confidence")
        self._color = _ImageOutput(node, "semantic/color")
        self._overlay = _ImageOutput(node, "semantic/overlay")
        self._label_info = node.create_lifecycle_publisher(LabelInfo, "semantic/label_info", LATCHED)
        self._categories = node.create_lifecycle_publisher(FrameCategories, "semantic/categories", STREAM)
        self._points = node.create_lifecycle_publisher(PointCloud2, "semantic/points", STREAM)
        self._point_buffer = _Buffer()
        self._cloud = PointCloud2(
            fields=_POINT_FIELDS,
            point_step=POINT.itemsize,
            is_bigendian=False,
            is_dense=False,
        )

    def destroy(self) -> None:
        """Take the topics away."""
        for image in (self._labels, self._confidence, self._color, self._overlay):
            self._node.destroy_lifecycle_publisher(image.publisher)
        for publisher in (self._label_info, self._categories, self._points):
            self._node.destroy_lifecycle_publisher(publisher)

    @property
    def points_wanted(self) -> bool:
        """Whether somebody subscribes to the points."""
        return self._points.get_subscription_count() > 0

    def label_info(self, vocabulary: Vocabulary, threshold: float) -> None:
        """Announce what the ids of the label images from now on mean."""
        header = Header(stamp=self._node.get_clock().now().to_msg())
        entries = [VisionClass(class_id=c.id, class_name=c.name) for c in vocabulary.categories]
        self._label_info.publish(LabelInfo(header=header, class_map=entries, threshold=threshold))

    def labels(self, header: Header, result: Segmentation) -> None:
        """Publish the label image, and the confidence if somebody subscribes to it."""
        self._labels.publish(header, result.labels, "16UC1" if result.vocabulary.wide else "mono8")
        if self._confidence.wanted:
            self._confidence.publish(header, result.confidence, "mono8")

    def pictures(self, header: Header, image: NDArray[np.uint8], result: Segmentation) -> None:
        """Publish colours and overlay as far as somebody subscribes."""
        if self._color.wanted:
            self._color.publish(header, colorize(result.labels, result.vocabulary), "rgb8")
        if self._overlay.wanted:
            self._overlay.publish(header, overlay(image, result.labels, result.vocabulary), "rgb8")

    def categories(self, header: Header, result: Segmentation, stages_ms: Mapping[str, float]) -> None:
        """Publish what the frame was decided among."""
        self._categories.publish(
            FrameCategories(
                header=header,
                version=result.version,
                ids=array("H", result.selected_ids.astype(np.uint16).tobytes()),
                names=list(result.selected_names),
                scores=array("f", result.scores.astype(np.float32).tobytes()),
                shares=array("f", result.shares.astype(np.float32).tobytes()),
                unknown_id=result.unknown_id,
                unknown_share=float(result.unknown_share),
                stages=list(stages_ms),
                stages_ms=array("f", stages_ms.values()),
            )
        )

    def point_buffer(self, height: int, width: int) -> NDArray[np.void]:
        """Where the points (H, W) of dtype POINT are to be written before `points`."""
        return self._point_buffer.sized(height * width * POINT.itemsize).view(POINT).reshape(height, width)

    def points(self, header: Header, height: int, width: int) -> None:
        """Publish what was written into the buffer of this size."""
        cloud = self._cloud
        cloud.header = header
        cloud.height, cloud.width = height, width
        cloud.row_step = width * POINT.itemsize
        cloud.data = self._point_buffer.data
        self._points.publish(cloud)
