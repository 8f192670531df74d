"""Why a subscription gets no messages, as far as the ROS graph tells."""

from rclpy.node import Node
from rclpy.qos import QoSCompatibility, qos_check_compatible
from rclpy.subscription import Subscription


def obstacle(node: Node, subscription: Subscription, name: str) -> str:
    """Why a subscription gets no messages, and what to do; empty if the graph shows no reason.

    Args:
        node: the subscription's.
        subscription: with the topic's resolved name, its type and its QoS.
        name: the topic's name before remapping.
    """
    topic = subscription.topic_name
    publishers = node.get_publishers_info_by_topic(topic)
    if not publishers:
        return f"nobody publishes {topic}; remap '{name}' to the camera's topic"
    package, _, kind = subscription.msg_type.__module__.partition(".msg")
    expected = f"{package}/msg/{subscription.msg_type.__name__}"
    right = [publisher for publisher in publishers if publisher.topic_type == expected]
    if not right:
        advice = f"remap '{name}' to a topic of type {expected}"
        if name in ("image", "image/compressed"):
            advice += ", or set the parameter compressed to true, which takes sensor_msgs/msg/CompressedImage"
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


def overrides(topic: str) -> str:
    """The names of the parameters that set a subscription's QoS."""
    return f"qos_overrides.{topic}.subscription.reliability and .durability"
