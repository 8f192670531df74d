"""What the node subscribes to for one camera."""

import re
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

from geometry_msgs.msg import PoseStamped
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions, QoSPolicyKind
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

try:
    from rclpy.event_handler import QoSMessageLostInfo, SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import QoSMessageLostInfo, SubscriptionEventCallbacks, UnsupportedEventTypeError

from ovs_ros.options import NodeOptions
from ovs_ros.ros.frames import nanoseconds
from ovs_ros.ros.inputs import KEPT, REPLACED, Inputs
from ovs_ros.ros.overtaken import Overtaken
from ovs_ros.ros.statistics import Statistics
from ovs_ros.ros.throttle import Throttle

_OVERRIDABLE = QoSOverridingOptions(
    (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY)
)


INPUTS = ("image", *KEPT, "cloud")
CLOUDS_KEPT = 5
_KINDS = {"depth": Image, "pose": PoseStamped, "camera_info": CameraInfo}
_LATCHED = "latched camera_info"


class Subscriptions:
    """The subscriptions of one camera while the node is active. For one thread, the executor's.

    Args:
        node: subscribes.
        prefix: stands before the topics' names: empty, or a name and '/'.
        options: tell whether images and depth come compressed.
        inputs: gets the messages but for clouds.
        on_cloud: called with each cloud.
        statistics: told of every image.
        throttle: takes warnings.
    """

    def __init__(
        self,
        node: LifecycleNode,
        prefix: str,
        options: NodeOptions,
        inputs: Inputs,
        on_cloud: Callable[[PointCloud2], None],
        statistics: Statistics,
        throttle: Throttle,
    ) -> None:
        self._node = node
        self._prefix = prefix
        self._options = options
        self._topics = self._find_topics()
        self._inputs = inputs
        self._on_cloud = on_cloud
        self._statistics = statistics
        self._throttle = throttle
        self._open: dict[str, Subscription] = {}
        self._last_stamp = 0
        self._overtaken = Overtaken()

    def keep(self, names: Collection[str]) -> None:
        """Subscribe to these of INPUTS, and to nothing else.

        Raises:
            Exception: a subscription cannot be made.
        """
        if "image" in self._open and "image" not in names:
            # A calibration that comes meanwhile is missed.
            self._inputs.clear()
        for name in [one for one in self._open if one.removeprefix("latched ") not in names]:
            self._node.destroy_subscription(self._open.pop(name))
        # One by one: when one fails, the others are known.
        for name in names:
            if name not in self._open:
                self._open[name] = self._subscribe_to(name)
        if "camera_info" in names and _LATCHED not in self._open and self._is_latched():
            qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
            self._open[_LATCHED] = self._node.create_subscription(
                CameraInfo, self._topics["camera_info"], partial(self._inputs.put, "camera_info"), qos
            )

    def get(self, name: str) -> Subscription | None:
        """The subscription to one of INPUTS, if there is one."""
        return self._open.get(name)

    def unremapped(self, name: str) -> str:
        """The name of an input before remapping."""
        return self._prefix + name

    @property
    def rectified(self) -> bool:
        """Whether the images' topic has a name of rectified images, such as image_rect or rect/image."""
        topic = self._node.resolve_topic_name(self._topics["image"])
        return re.search(r"(?<![a-z])rect(ified)?(?![a-z])", topic) is not None

    def _find_topics(self) -> dict[str, str]:
        """The names under which the inputs are subscribed to."""
        image, depth = (self._node.resolve_topic_name(self._prefix + name) for name in ("image", "depth"))
        topics = {name: self._prefix + name for name in INPUTS}
        # As image_transport has it: whoever remaps the image alone means what belongs to it, too.
        topics["camera_info"] = self._own("camera_info", f"{image.rpartition('/')[0]}/camera_info")
        if self._options.image_transport == "compressed":
            topics["image"] = self._own("image/compressed", f"{image}/compressed")
        if self._options.depth_transport == "compressedDepth":
            topics["depth"] = self._own("depth/compressedDepth", f"{depth}/compressedDepth")
        return topics

    def _own(self, name: str, otherwise: str) -> str:
        """A name if it is remapped, and another topic otherwise."""
        own = self._prefix + name
        resolved, expanded = (self._node.resolve_topic_name(own, only_expand=only) for only in (False, True))
        return own if resolved != expanded else otherwise

    @property
    def topics(self) -> set[str]:
        """The resolved names of the topics."""
        return {subscription.topic_name for subscription in tuple(self._open.values())}

    def _is_latched(self) -> bool:
        """Whether the calibration was published once, before the subscription, and has not come.

        Only then a second subscription helps: other publishers would warn of one that is incompatible.
        """
        if self._inputs.newest("camera_info") is not None:
            return False
        publishers = self._node.get_publishers_info_by_topic(self._open["camera_info"].topic_name)
        return any(p.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for p in publishers)

    def _subscribe_to(self, name: str) -> Subscription:
        if name == "image":
            return self._subscribe_to_images()
        if name == "cloud":
            return self._subscribe(PointCloud2, name, self._on_cloud, CLOUDS_KEPT)
        compressed = name == "depth" and self._options.depth_transport == "compressedDepth"
        kind = CompressedImage if compressed else _KINDS[name]
        return self._subscribe(kind, name, partial(self._inputs.put, name), KEPT[name])

    def _subscribe_to_images(self) -> Subscription:
        kind = CompressedImage if self._options.image_transport == "compressed" else Image
        self._overtaken = Overtaken()
        # Only the middleware knows which images were lost on the way.
        events = SubscriptionEventCallbacks(message_lost=self._on_lost)
        try:
            return self._subscribe(kind, "image", self._on_image, event_callbacks=events)
        except UnsupportedEventTypeError:
            self._node.get_logger().info("This middleware does not tell which images are lost on the way")
            return self._subscribe(kind, "image", self._on_image)

    def _subscribe(
        self, kind: type, name: str, callback: Callable[..., None], depth: int = 1, **options: Any
    ) -> Subscription:
        qos = QoSProfile(depth=depth, reliability=ReliabilityPolicy.BEST_EFFORT)
        return self._node.create_subscription(
            kind, self._topics[name], callback, qos, qos_overriding_options=_OVERRIDABLE, **options
        )

    def _on_lost(self, event: QoSMessageLostInfo) -> None:
        self._statistics.lost(event.total_count_change)
        self._overtaken.lost(event.total_count_change)

    def _on_image(self, message: Image | CompressedImage, info: Mapping[str, Any]) -> None:
        stamp = nanoseconds(message.header)
        if stamp < self._last_stamp:
            self._throttle.warn(
                "stamps",
                f"The images' stamps went back, now to {stamp / 1e9:.3f} s; expected them to rise. "
                "Did a recording start again, or do two cameras publish this topic?",
            )
        self._last_stamp = stamp
        reason = self._inputs.put_image(message)
        overtaken = self._overtaken.before(info)
        self._statistics.arrived(1 + overtaken)
        self._statistics.dropped(REPLACED, overtaken)
        if reason:
            self._statistics.dropped(reason)
