"""Why a subscription gets no messages, as far as the ROS graph tells."""

from rclpy.node import Node
from rclpy.qos import QoSCompatibility, qos_check_compatible
from rclpy.subscription import Subscription

from ovs_ros.transports import PLUGINS, republish

_VIDEO = {
    "ffmpeg_image_transport_msgs/msg/FFMPEGPacket": "ffmpeg",
    "theora_image_transport/msg/Packet": "theora",
}
"""Types of messages that other transports publish -> the transport."""


def obstacle(node: Node, subscription: Subscription, name: str) -> str:
    """Why a subscription gets no messages, and what to do; empty if the graph shows no reason.

    Args:
        node: the subscription's.
        subscription: with the topic's resolved name, its type and its QoS.
        name: the topic's name before remapping.
    """
    topic = subscription.topic_name
    publishers = node.get_publishers_info_by_topic(topic)
    is_image = name.rpartition("/")[2] == "image"
    if not publishers:
        elsewhere = _other_transport(node, topic) if is_image else ""
        advice = elsewhere or f"remap '{name}' to the camera's topic"
        return f"nobody publishes {topic}; {advice}"
    package, _, kind = subscription.msg_type.__module__.partition(".msg")
    expected = f"{package}/msg/{subscription.msg_type.__name__}"
    right = [publisher for publisher in publishers if publisher.topic_type == expected]
    if not right:
        advice = f"remap '{name}' to a topic of type {expected}"
        found = publishers[0].topic_type
        if is_image and found in _VIDEO:
            plugin = _VIDEO[found]
            advice = republish(plugin, topic.removesuffix(f"/{plugin}"))
        elif is_image:
            advice += (
                ", or set the parameter image_transport: raw takes sensor_msgs/msg/Image, compressed takes "
                "sensor_msgs/msg/CompressedImage"
            )
        return f"{topic} is of type {publishers[0].topic_type}, not {expected}; {advice}"
    reasons = []
    for publisher in right:
        compatibility, reason = qos_check_compatible(publisher.qos_profile, subscription.qos_profile)
        if compatibility != QoSCompatibility.ERROR:
            return ""
        reasons.append(reason.strip("; "))
    return (
        f"the QoS of {topic} does not match its publisher's ({reasons[0]}); set the publisher's, or the "
        f"parameters {overrides(topic)}"
    )


def _other_transport(node: Node, topic: str) -> str:
    """What to do where images come by another transport than the one subscribed to; empty if they do not."""
    image = topic.removesuffix("/compressed")
    if topic != image and node.count_publishers(image):
        return f"{image} has a publisher: set the parameter image_transport to raw"
    if topic == image and node.count_publishers(f"{image}/compressed"):
        return f"{image}/compressed has a publisher: set the parameter image_transport to compressed"
    for plugin in dict.fromkeys(PLUGINS.values()):
        if node.count_publishers(f"{image}/{plugin}"):
            return f"{image}/{plugin} has a publisher: {republish(plugin, image)}"
    return ""


def overrides(topic: str) -> str:
    """The names of the parameters that set a subscription's QoS."""
    return f"qos_overrides.{topic}.subscription.reliability and .durability"
