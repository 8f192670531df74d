"""Connected regions of one name as instances: an image of their numbers, and detections in 2D and 3D."""

from collections.abc import Callable

import numpy as np
from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray, Detection3DArray

from ovs_ros.geometry.boxes import region_boxes
from ovs_ros.render import display_colors
from ovs_ros.ros import annotations
from ovs_ros.ros.conversions import ConversionError
from ovs_ros.ros.detections import flat_detection, solid_detection
from ovs_ros.ros.image_publisher import ImagePublisher
from ovs_ros.ros.measurements import Measurements
from ovs_ros.ros.qos import STREAM
from ovs_ros.ros.throttle import Throttle
from ovs_ros.steps.components import components
from ovs_ros.steps.segmentation import Segmentation

_FLAT, _SOLID, _ANNOTATIONS = "detections", "detections_3d", "annotations"


class InstanceOutput:
    """Publishes the instances of one camera. For one thread, the worker's.

    Args:
        node: publishes.
        prefix: stands before the topics' names: empty, or a camera's name and '/'.
        least_share: called for the share of the image's pixels that an instance has at least.
        throttle: takes warnings about depth and calibration.
    """

    def __init__(
        self, node: LifecycleNode, prefix: str, least_share: Callable[[], float], throttle: Throttle
    ) -> None:
        self._node = node
        self._least_share = least_share
        self._throttle = throttle
        self._mask = ImagePublisher(node, f"{prefix}semantic/instances")
        kinds = {_FLAT: Detection2DArray, _SOLID: Detection3DArray}
        if annotations.AVAILABLE:
            kinds[_ANNOTATIONS] = annotations.KIND
        self._publishers = {
            name: node.create_lifecycle_publisher(kind, f"{prefix}semantic/{name}", STREAM)
            for name, kind in kinds.items()
        }

    def destroy(self) -> None:
        """Destroy the publishers."""
        self._mask.destroy()
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)

    def needs(self) -> set[str]:
        """The inputs that it needs now; none while nobody subscribes."""
        wanted = self._wanted()
        if _SOLID in wanted:
            return {"image", "camera_info", "depth"}
        return {"image"} if wanted or self._mask.wanted() else set()

    def announce(self) -> None:
        """Nothing holds for all frames."""

    def publish(self, header: Header, result: Segmentation, measurements: Measurements) -> None:
        """Publish a frame's instances, in the forms that somebody subscribes to."""
        wanted = self._wanted()
        if not (wanted or self._mask.wanted()):
            return
        mask, found = components(result, self._least_share())
        if self._mask.wanted():
            self._mask.publish(header, mask, "32SC1")
        if _FLAT in wanted:
            detections = [flat_detection(header, number, one) for number, one in enumerate(found, 1)]
            self._publishers[_FLAT].publish(Detection2DArray(header=header, detections=detections))
        if _ANNOTATIONS in wanted:
            colors = display_colors(result.vocabulary.names, {one.name for one in found})
            self._publishers[_ANNOTATIONS].publish(annotations.annotated(header, found, colors))
        if _SOLID in wanted and measurements.has_depth():
            try:
                boxes = region_boxes(mask, len(found), measurements.metres, measurements.intrinsics)
            except ConversionError as error:
                self._throttle.warn(_SOLID, f"No 3D detections for a frame: {error}")
                return
            solids = [
                solid_detection(header, number, one, box)
                for number, (one, box) in enumerate(zip(found, boxes, strict=True), 1)
                if np.isfinite(box).all()
            ]
            self._publishers[_SOLID].publish(Detection3DArray(header=header, detections=solids))

    def _wanted(self) -> set[str]:
        return {name for name, one in self._publishers.items() if one.get_subscription_count() > 0}
