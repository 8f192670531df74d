"""Brings depth and poses to the images that they belong to."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from message_filters import ApproximateTimeSynchronizer, SimpleFilter
from std_msgs.msg import Header

Message = TypeVar("Message")

QUEUE = 10


@dataclass(frozen=True)
class _Stamped:
    """What the synchroniser needs of an image: it would keep many of them alive."""

    header: Header


def nanoseconds(header: Header) -> int:
    """A header's stamp in nanoseconds."""
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec


class CompanionSync(Generic[Message]):
    """Pairs messages of one other topic with images whose stamps differ by less than `slop` seconds.

    Args:
        slop: seconds.
        deliver: called with an image's stamp in nanoseconds and its companion. It runs while the synchroniser
            holds its lock, so it must neither wait nor raise.
        queue: how many messages wait for their image.
    """

    def __init__(self, slop: float, deliver: Callable[[int, Message], None], queue: int = QUEUE) -> None:
        self._slop = slop
        self._deliver = deliver
        self._queue = queue
        self.reset()

    def reset(self) -> None:
        """Forget what waits for its other half. Needed when stamps go back: the synchroniser drops the oldest
        stamps first, so that those of before the jump would push out all that come after it."""
        self._image, self._other = SimpleFilter(), SimpleFilter()
        # The synchroniser is kept alive by the callbacks that it registers.
        both = ApproximateTimeSynchronizer([self._image, self._other], self._queue, self._slop)
        both.registerCallback(self._pair)

    def image(self, header: Header) -> None:
        """Take the header of an image."""
        self._image.signalMessage(_Stamped(header))

    def companion(self, message: Message) -> None:
        """Take a message with a header of the other topic."""
        self._other.signalMessage(message)

    def _pair(self, image: _Stamped, message: Message) -> None:
        self._deliver(nanoseconds(image.header), message)
