"""Instances as detections of vision_msgs."""

from geometry_msgs.msg import Point, Pose, PoseWithCovariance, Vector3
from numpy.typing import NDArray
from std_msgs.msg import Header
from vision_msgs.msg import (
    BoundingBox2D,
    BoundingBox3D,
    Detection2D,
    Detection3D,
    ObjectHypothesis,
    ObjectHypothesisWithPose,
    Point2D,
    Pose2D,
)

from ovs_ros.steps.components import Component


def flat_detection(header: Header, number: int, component: Component) -> Detection2D:
    """An instance with its box in pixels."""
    x, y, width, height = component.box
    center = Pose2D(position=Point2D(x=x + width / 2, y=y + height / 2))
    return Detection2D(
        header=header,
        results=[ObjectHypothesisWithPose(hypothesis=_hypothesis(component))],
        bbox=BoundingBox2D(center=center, size_x=float(width), size_y=float(height)),
        id=str(number),
    )


def solid_detection(header: Header, number: int, component: Component, box: NDArray) -> Detection3D:
    """An instance with its box in metres: (2, 3), the middle and the size."""
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
