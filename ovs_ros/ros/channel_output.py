"""An image with a channel of probabilities for each of some words."""

from collections.abc import Sequence

from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import Header

from ovs_ros.ros.image_publisher import ImagePublisher
from ovs_ros.ros.measurements import Measurements
from ovs_ros.steps.channels import channel_image
from ovs_ros.steps.segmentation import Segmentation
from ovs_ros.vocabulary.category import VocabularyError, checked_name, name_key, refuse_duplicates

MOST_CHANNELS = 64


class ChannelOutput:
    """Publishes the probabilities of words. For one thread, the worker's.

    Args:
        node: publishes.
        prefix: stands before the topic's name: empty, or a camera's name and '/'.
        words: of the channels, in their order.

    Raises:
        VocabularyError: a word cannot be one, or comes twice, or there are too many.
    """

    def __init__(self, node: LifecycleNode, prefix: str, words: Sequence[str]) -> None:
        names = [checked_name(word, "channel") for word in words]
        refuse_duplicates(names, "channel")
        if len(names) > MOST_CHANNELS:
            raise VocabularyError(f"expected at most {MOST_CHANNELS} channels, got {len(names)}; name fewer")
        self._keys = [name_key(name) for name in names]
        self._image = ImagePublisher(node, f"{prefix}semantic/channels")

    def destroy(self) -> None:
        """Destroy the publisher."""
        self._image.destroy()

    def needs(self) -> set[str]:
        """The inputs that it needs now; none while nobody subscribes."""
        return {"image"} if self._image.wanted() else set()

    def announce(self) -> None:
        """Nothing holds for all frames."""

    def publish(self, header: Header, result: Segmentation, measurements: Measurements) -> None:
        """Publish a frame's channels if somebody subscribes."""
        if self._image.wanted():
            self._image.publish(header, channel_image(result, self._keys), f"32FC{len(self._keys)}")
