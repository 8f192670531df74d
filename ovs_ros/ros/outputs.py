"""The publishers of what every camera has."""

from array import array
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import Header
from vision_msgs.msg import LabelInfo, VisionClass

from ovs_ros.msg import FrameCategories
from ovs_ros.options import Points
from ovs_ros.render import colorize, overlay
from ovs_ros.ros.image_publisher import ImagePublisher
from ovs_ros.ros.points_publisher import PointsPublisher
from ovs_ros.ros.qos import LATCHED, STREAM
from ovs_ros.ros.session import SESSION
from ovs_ros.steps.segmentation import Segmentation
from ovs_ros.vocabulary.vocabulary import Vocabulary

_IMAGES = ("image_raw", "confidence", "color", "overlay")
_OTHERS = {
    "label_info": LabelInfo,
    "categories": FrameCategories,
}


class Outputs:
    """All topics of one camera. Its methods are for one thread, the worker's.

    Args:
        node: publishes.
        prefix: stands before the topics' names: empty, or a name and '/'.

    Attributes:
        points: the topic of points from depth.
    """

    def __init__(self, node: LifecycleNode, prefix: str = "") -> None:
        self._node = node
        self._images = {name: ImagePublisher(node, f"{prefix}semantic/{name}") for name in _IMAGES}
        self._publishers = {
            name: node.create_lifecycle_publisher(
                kind, f"{prefix}semantic/{name}", LATCHED if kind is LabelInfo else STREAM
            )
            for name, kind in _OTHERS.items()
        }
        self.points = PointsPublisher(node, f"{prefix}semantic/points")

    def destroy(self) -> None:
        """Destroy the publishers."""
        for image in self._images.values():
            image.destroy()
        self.points.destroy()
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)

    def points_wanted(self, points: Points) -> bool:
        """Whether points are to be published, by the parameter `points`."""
        return points == "always" or (points == "auto" and self.points.wanted())

    def needs(self, points: Points) -> set[str]:
        """The inputs that it needs now; none while nobody subscribes. `points` is the parameter."""
        if self.points_wanted(points):
            return {"image", "camera_info", "depth"}
        listeners = self._publishers["categories"].get_subscription_count()
        return {"image"} if listeners or any(image.wanted() for image in self._images.values()) else set()

    def label_info(self, vocabulary: Vocabulary, threshold: float) -> None:
        """Announce what the ids of the label images from now on mean."""
        header = Header(
            stamp=self._node.get_clock().now().to_msg(), frame_id=f"{SESSION}/{vocabulary.version}"
        )
        entries = [VisionClass(class_id=c.id, class_name=c.name) for c in vocabulary.categories]
        message = LabelInfo(header=header, class_map=entries, threshold=threshold)
        self._publishers["label_info"].publish(message)

    def images(self, header: Header, image: NDArray[np.uint8], result: Segmentation) -> None:
        """Publish the label image, and of confidence, colours and overlay what somebody subscribes to."""
        vocabulary = result.vocabulary
        to = self._images
        to["image_raw"].publish(header, result.labels, "16UC1" if vocabulary.wide else "mono8")
        if to["confidence"].wanted():
            to["confidence"].publish(header, result.confidence, "mono8")
        if to["color"].wanted():
            to["color"].publish(header, colorize(result.labels, vocabulary), "rgb8")
        if to["overlay"].wanted():
            to["overlay"].publish(header, overlay(image, result.labels, vocabulary), "rgb8")

    def categories(
        self,
        header: Header,
        result: Segmentation,
        stages_ms: Mapping[str, float],
        key: Header | None = None,
    ) -> None:
        """Publish what the frame was decided among; `key` is the frame that its labels were carried from."""
        message = FrameCategories(
            header=header,
            propagated=key is not None,
            key_stamp=(key or header).stamp,
            session=SESSION,
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
        self._publishers["categories"].publish(message)
