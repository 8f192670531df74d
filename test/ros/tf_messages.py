"""Transforms for tests: messages and matrices."""

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def transform(parent, child, seconds=0.0, shift=(0.0, 0.0, 0.0), turn=(0.0, 0.0, 0.0)) -> TransformStamped:
    """Where a child frame lies in its parent: a shift, and a rotation vector."""
    angle = float(np.linalg.norm(turn))
    x, y, z = np.asarray(turn) / (angle or 1) * np.sin(angle / 2)
    stamp = Time(sec=int(seconds), nanosec=round(seconds % 1 * 1e9))
    return TransformStamped(
        header=Header(frame_id=parent, stamp=stamp),
        child_frame_id=child,
        transform=Transform(
            translation=Vector3(x=float(shift[0]), y=float(shift[1]), z=float(shift[2])),
            rotation=Quaternion(x=float(x), y=float(y), z=float(z), w=float(np.cos(angle / 2))),
        ),
    )


def matrix(shift, turn) -> np.ndarray:
    """The same as (4, 4)."""
    result = np.eye(4)
    result[:3, :3], result[:3, 3] = cv2.Rodrigues(np.asarray(turn, float))[0], shift
    return result


class TfSender:
    """Publishes on /tf_static, and on a topic for transforms that change."""

    def __init__(self, node: Node, topic: str = "/tf") -> None:
        self.moving = node.create_publisher(TFMessage, topic, 100)
        self.static = node.create_publisher(TFMessage, "/tf_static", LATCHED)

    def send(self, *transforms: TransformStamped, static: bool = False) -> None:
        (self.static if static else self.moving).publish(TFMessage(transforms=transforms))
