"""The quality of service of what the node publishes."""

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

STREAM = QoSProfile(depth=2, reliability=ReliabilityPolicy.RELIABLE)
"""Of what every frame has: it matches every subscriber."""
LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
"""Of what holds until the next message."""
