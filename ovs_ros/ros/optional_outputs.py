"""The outputs that parameters add to a camera's topics."""

from collections.abc import Callable
from typing import Protocol

from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import Header

from ovs_ros.options import NodeOptions
from ovs_ros.ros.channel_output import ChannelOutput
from ovs_ros.ros.instance_output import InstanceOutput
from ovs_ros.ros.legend_output import LegendOutput
from ovs_ros.ros.measurements import Measurements
from ovs_ros.ros.throttle import Throttle
from ovs_ros.ros.view_output import ViewOutput
from ovs_ros.steps.segmentation import Segmentation
from ovs_ros.vocabulary.label_view import load_views


class OptionalOutput(Protocol):
    """Publishes something of every frame, and computes it only while somebody subscribes."""

    def destroy(self) -> None:
        """Destroy the publishers."""

    def needs(self) -> set[str]:
        """The inputs that it needs now, 'image' among them; none while nobody subscribes."""

    def announce(self) -> None:
        """Publish what holds for all frames."""

    def publish(self, header: Header, result: Segmentation, measurements: Measurements) -> None:
        """Publish what belongs to a frame."""


def optional_outputs(
    node: LifecycleNode, prefix: str, options: Callable[[], NodeOptions], throttle: Throttle
) -> list[OptionalOutput]:
    """What the parameters ask for.

    Args:
        node: publishes.
        prefix: stands before the topics' names: empty, or a camera's name and '/'.
        options: called for the node's.
        throttle: takes warnings.

    Raises:
        VocabularyError: a file or a word that they name cannot be used.
    """
    outputs: list[OptionalOutput] = [ViewOutput(node, prefix, view) for view in load_views(options().views)]
    outputs.append(LegendOutput(node, prefix))
    if options().instances:
        outputs.append(InstanceOutput(node, prefix, lambda: options().instance_share, throttle))
    if words := [word for word in options().channels if word]:
        outputs.append(ChannelOutput(node, prefix, words))
    return outputs
