"""What the worker reads beside frames."""

from collections.abc import Callable
from dataclasses import dataclass

from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from ovs_ros.ros.mailbox import Mailbox
from ovs_ros.ros.parameters import Settings


@dataclass(frozen=True)
class Taps:
    """Frames, depth and poses in `mailbox`; `camera_info` is the newest one, set by its subscription."""

    mailbox: Mailbox[Image | CompressedImage, Image | PoseStamped]
    camera_info: Callable[[], CameraInfo | None]
    settings: Callable[[], Settings]
