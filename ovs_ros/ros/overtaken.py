"""Images that came to the middleware, where a newer one took their place before the node could look."""

from collections.abc import Mapping
from typing import Any

MOST = 100
"""A larger gap is no gap: the numbers are those of another publisher, or of one that started anew."""


class Overtaken:
    """Counts them by the gaps in the numbers that the publisher gave its messages. For one thread.

    Middlewares and rclpy versions that tell no numbers (Humble) give no counts.
    """

    def __init__(self) -> None:
        self._last: int | None = None
        self._gap = self._lost = 0

    def lost(self, count: int) -> None:
        """So many messages were lost on the way: they are in the gaps too, and were not overtaken."""
        self._lost += count

    def before(self, info: Mapping[str, Any]) -> int:
        """How many were overtaken, without the gap just before this message.

        The middleware tells what was lost after it hands over the message that shows it, so that a gap is
        judged with the next message.

        Args:
            info: what rclpy tells with a message.
        """
        overtaken = max(0, self._gap - self._lost)
        number = info.get("publication_sequence_number")
        gap = 0 if number is None or self._last is None else number - self._last - 1
        self._gap, self._lost, self._last = gap if 0 < gap <= MOST else 0, 0, number
        return overtaken
