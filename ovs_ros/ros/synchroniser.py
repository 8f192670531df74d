"""Brings depth and poses to the images that they belong to."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from message_filters import ApproximateTimeSynchronizer, SimpleFilter
from std_msgs.msg import Header


class HasHeader(Protocol):
    """A message with a stamp."""

    header: Header


Message = TypeVar("Message", bound=HasHeader)

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

    Messages with a stamp before 1970 have no partner: to rclpy there is no such time, and the synchroniser
    would raise in the executor, which ends the node.

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
        if header.stamp.sec >= 0:
            self._image.signalMessage(_Stamped(header))

    def companion(self, message: Message) -> None:
        """Take a message with a header of the other topic."""
        if message.header.stamp.sec >= 0:
            self._other.signalMessage(message)

    def _pair(self, image: _Stamped, message: Message) -> None:
        self._deliver(nanoseconds(image.header), message)
