"""What the node subscribes to for one camera."""

import re
from collections.abc import Callable
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
from ovs_ros.ros.inputs import KEPT, Inputs
from ovs_ros.ros.statistics import Statistics
from ovs_ros.ros.throttle import Throttle

_OVERRIDABLE = QoSOverridingOptions(
    (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY)
)


class Subscriptions:
    """The subscriptions of one camera while the node is active. For one thread, the executor's.

    Args:
        node: subscribes.
        prefix: stands before the topics' names: empty, or a name and '/'.
        options: tell whether images and depth come compressed.
        inputs: gets the messages.
        statistics: told of every image.
        throttle: takes warnings.
    """

    def __init__(
        self,
        node: LifecycleNode,
        prefix: str,
        options: NodeOptions,
        inputs: Inputs,
        statistics: Statistics,
        throttle: Throttle,
    ) -> None:
        self._node = node
        self._prefix = prefix
        self._image = (CompressedImage, "image/compressed") if options.compressed else (Image, "image")
        compressed_depth = options.depth_transport == "compressedDepth"
        self._depth = (CompressedImage, "depth/compressedDepth") if compressed_depth else (Image, "depth")
        self._inputs = inputs
        self._statistics = statistics
        self._throttle = throttle
        self._open: dict[str, Subscription] = {}
        self._last_stamp = 0

    def open(self) -> None:
        """Subscribe.

        Raises:
            Exception: a subscription cannot be made; `close` closes those that could.
        """
        # One by one: when one fails, `close` has to know those that are open.
        self._open["image"] = self._subscribe_images()
        for name, (kind, topic) in (
            ("depth", self._depth),
            ("pose", (PoseStamped, "pose")),
            ("camera_info", (CameraInfo, "camera_info")),
        ):
            self._open[name] = self._subscribe(kind, topic, partial(self._inputs.put, name), KEPT[name])
        # This declares its QoS parameters; clouds are large, so that nobody's shall not come.
        self.take_clouds(lambda cloud: None)
        self.take_clouds(None)

    def take_clouds(self, callback: Callable[[PointCloud2], None] | None) -> None:
        """Subscribe to clouds, or not any more."""
        if (present := self._open.pop("cloud", None)) is not None:
            self._node.destroy_subscription(present)
        if callback is not None:
            self._open["cloud"] = self._subscribe(PointCloud2, "cloud", callback, 5)

    def close(self) -> None:
        """Unsubscribe."""
        for subscription in self._open.values():
            self._node.destroy_subscription(subscription)
        self._open.clear()

    def get(self, name: str) -> Subscription | None:
        """The subscription to 'image', 'depth', 'pose', 'camera_info' or 'cloud', if there is one."""
        return self._open.get(name)

    def unprefixed(self, name: str) -> str:
        """The topic's name before remapping."""
        return self._prefix + {"image": self._image[1], "depth": self._depth[1]}.get(name, name)

    @property
    def rectified(self) -> bool:
        """Whether the images' topic has a name of rectified images, such as image_rect or rect/image."""
        topic = self._node.resolve_topic_name(self.unprefixed("image"))
        return re.search(r"(?<![a-z])rect(ified)?(?![a-z])", topic) is not None

    @property
    def topics(self) -> set[str]:
        """The resolved names of the topics; that of clouds also while nobody wants any."""
        topics = {subscription.topic_name for subscription in self._open.values()}
        return topics | {self._node.resolve_topic_name(self.unprefixed("cloud"))}

    def look_for_latched(self) -> None:
        """Subscribe also to a calibration that was published once, before this node started.

        Only if there is such a publisher: others would warn of an incompatible subscription.
        """
        usual = self._open.get("camera_info")
        if usual is None or "latched camera_info" in self._open:
            return
        publishers = self._node.get_publishers_info_by_topic(usual.topic_name)
        latches = any(p.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for p in publishers)
        if latches and self._inputs.newest("camera_info") is None:
            qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
            self._open["latched camera_info"] = self._node.create_subscription(
                CameraInfo, self._prefix + "camera_info", partial(self._inputs.put, "camera_info"), qos
            )

    def _subscribe_images(self) -> Subscription:
        kind, topic = self._image
        # Only the middleware knows which images were lost on the way.
        events = SubscriptionEventCallbacks(message_lost=self._on_lost)
        try:
            return self._subscribe(kind, topic, self._on_image, event_callbacks=events)
        except UnsupportedEventTypeError:
            self._node.get_logger().info("This middleware does not tell which images are lost on the way")
            return self._subscribe(kind, topic, self._on_image)

    def _subscribe(
        self, kind: type, topic: str, callback: Callable[[Any], None], depth: int = 1, **options: Any
    ) -> Subscription:
        qos = QoSProfile(depth=depth, reliability=ReliabilityPolicy.BEST_EFFORT)
        return self._node.create_subscription(
            kind, self._prefix + topic, callback, qos, qos_overriding_options=_OVERRIDABLE, **options
        )

    def _on_lost(self, event: QoSMessageLostInfo) -> None:
        self._statistics.lost(event.total_count_change)

    def _on_image(self, message: Image | CompressedImage) -> None:
        stamp = nanoseconds(message.header)
        if stamp < self._last_stamp:
            self._throttle.warn(
                "stamps",
                f"The images' stamps went back, now to {stamp / 1e9:.3f} s; expected them to rise. "
                "Did a recording start again, or do two cameras publish this topic?",
            )
        self._last_stamp = stamp
        reason = self._inputs.put_image(message)
        self._statistics.arrived()
        if reason:
            self._statistics.dropped(reason)
