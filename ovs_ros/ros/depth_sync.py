"""Brings depth to the images that it belongs to."""

from collections.abc import Callable
from dataclasses import dataclass

from message_filters import ApproximateTimeSynchronizer, SimpleFilter
from sensor_msgs.msg import Image
from std_msgs.msg import Header

QUEUE = 10


@dataclass(frozen=True)
class _Stamped:
    """What the synchroniser needs of an image: it would keep ten of them alive."""

    header: Header


def nanoseconds(header: Header) -> int:
    """A header's stamp in nanoseconds."""
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec


class DepthSync:
    """Pairs depth with images whose stamps differ by less than `slop` seconds.

    Args:
        slop: seconds.
        deliver: called with an image's stamp in nanoseconds and its depth. It runs while the synchroniser
            holds its lock, so it must neither wait nor raise.
    """

    def __init__(self, slop: float, deliver: Callable[[int, Image], None]) -> None:
        self._slop = slop
        self._deliver = deliver
        self.reset()

    def reset(self) -> None:
        """Forget what waits for its other half. Needed when stamps go back: the synchroniser drops the oldest
        stamps first, so that those of before the jump would push out all that come after it."""
        self._image, self._depth = SimpleFilter(), SimpleFilter()
        # The synchroniser is kept alive by the callbacks that it registers.
        both = ApproximateTimeSynchronizer([self._image, self._depth], QUEUE, self._slop)
        both.registerCallback(self._pair)

    def image(self, header: Header) -> None:
        """Take the header of an image."""
        self._image.signalMessage(_Stamped(header))

    def depth(self, message: Image) -> None:
        """Take a depth image."""
        self._depth.signalMessage(message)

    def _pair(self, image: _Stamped, depth: Image) -> None:
        self._deliver(nanoseconds(image.header), depth)
