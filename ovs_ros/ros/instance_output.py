"""Connected regions of one name as instances: an image of their numbers, and detections in 2D and 3D."""

from collections.abc import Callable

import numpy as np
from geometry_msgs.msg import Point, Pose, PoseWithCovariance, Vector3
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import Header
from vision_msgs.msg import (
    BoundingBox2D,
    BoundingBox3D,
    Detection2D,
    Detection2DArray,
    Detection3D,
    Detection3DArray,
    ObjectHypothesis,
    ObjectHypothesisWithPose,
    Point2D,
    Pose2D,
)

from ovs_ros.geometry.boxes import region_boxes
from ovs_ros.ros.conversions import ConversionError
from ovs_ros.ros.image_publisher import ImagePublisher
from ovs_ros.ros.measurements import Measurements
from ovs_ros.ros.qos import STREAM
from ovs_ros.ros.throttle import Throttle
from ovs_ros.steps.components import Component, components
from ovs_ros.steps.segmentation import Segmentation


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
        self._flat, self._solid = (
            node.create_lifecycle_publisher(kind, f"{prefix}semantic/{name}", STREAM)
            for kind, name in ((Detection2DArray, "detections"), (Detection3DArray, "detections_3d"))
        )

    def destroy(self) -> None:
        """Destroy the publishers."""
        self._mask.destroy()
        for publisher in (self._flat, self._solid):
            self._node.destroy_lifecycle_publisher(publisher)

    def needs(self) -> set[str]:
        """The inputs that it needs now; none while nobody subscribes."""
        if self._solid.get_subscription_count() > 0:
            return {"image", "camera_info", "depth"}
        return {"image"} if self._mask.wanted() or self._flat.get_subscription_count() > 0 else set()

    def announce(self) -> None:
        """Nothing holds for all frames."""

    def publish(self, header: Header, result: Segmentation, measurements: Measurements) -> None:
        """Publish a frame's instances, in the forms that somebody subscribes to."""
        flat, solid = (publisher.get_subscription_count() > 0 for publisher in (self._flat, self._solid))
        if not (flat or solid or self._mask.wanted()):
            return
        mask, found = components(result, self._least_share())
        if self._mask.wanted():
            self._mask.publish(header, mask, "32SC1")
        if flat:
            detections = [_flat(header, number, one) for number, one in enumerate(found, 1)]
            self._flat.publish(Detection2DArray(header=header, detections=detections))
        if solid and measurements.has_depth():
            try:
                boxes = region_boxes(mask, len(found), measurements.metres, measurements.intrinsics)
            except ConversionError as error:
                self._throttle.warn("detections_3d", f"No 3D detections for a frame: {error}")
                return
            numbered = enumerate(zip(found, boxes, strict=True), 1)
            solids = [_solid(header, n, one, box) for n, (one, box) in numbered if np.isfinite(box).all()]
            self._solid.publish(Detection3DArray(header=header, detections=solids))


def _flat(header: Header, number: int, component: Component) -> Detection2D:
    x, y, width, height = component.box
    center = Pose2D(position=Point2D(x=x + width / 2, y=y + height / 2))
    return Detection2D(
        header=header,
        results=[ObjectHypothesisWithPose(hypothesis=_hypothesis(component))],
        bbox=BoundingBox2D(center=center, size_x=float(width), size_y=float(height)),
        id=str(number),
    )


def _solid(header: Header, number: int, component: Component, box: NDArray[np.float64]) -> Detection3D:
    (x, y, z), (width, height, depth) = box.tolist()
    pose = Pose(position=Point(x=x, y=y, z=z))
    hypothesis = ObjectHypothesisWithPose(
        hypothesis=_hypothesis(component), pose=PoseWithCovariance(pose=pose)
    )
    return Detection3D(
        header=header,
        results=[hypothesis],
        bbox=BoundingBox3D(center=pose, size=Vector3(x=width, y=height, z=depth)),
        id=str(number),
    )


def _hypothesis(component: Component) -> ObjectHypothesis:
    return ObjectHypothesis(class_id=component.name, score=component.score)
