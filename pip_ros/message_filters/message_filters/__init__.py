"""Stands in for ROS 2's message_filters: the two classes that ovs_ros uses, with the same arguments."""

import threading
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

from rclpy.time import Time

__all__ = ["ApproximateTimeSynchronizer", "SimpleFilter"]


class SimpleFilter:
    """Hands messages on to callbacks."""

    def __init__(self) -> None:
        self.callbacks: dict[int, tuple[Callable[..., None], tuple[Any, ...]]] = {}

    def registerCallback(self, cb: Callable[..., None], *args: Any) -> int:  # noqa: N802
        """Call `cb` with every message, followed by `args`. Returns the connection's number."""
        number = len(self.callbacks)
        self.callbacks[number] = (cb, args)
        return number

    def signalMessage(self, *msg: Any) -> None:  # noqa: N802
        """Hand on a message, or several that belong together."""
        for callback, args in self.callbacks.values():
            callback(*msg, *args)


class ApproximateTimeSynchronizer(SimpleFilter):
    """Hands on messages of several filters together whose stamps differ by less than `slop` seconds.

    Every message is handed on at most once. As with the original, the callbacks run while the lock is held.
    """

    def __init__(self, fs: Sequence[SimpleFilter], queue_size: int, slop: float) -> None:
        super().__init__()
        self.queue_size = queue_size
        self.slop = round(slop * 1e9)
        self.lock = threading.Lock()
        self.queues: list[dict[int, Any]] = [{} for _ in fs]
        for index, source in enumerate(fs):
            source.registerCallback(self.add, self.queues[index], index)

    def add(self, msg: Any, my_queue: dict[int, Any], my_queue_index: int) -> None:
        """Take a message in, and hand it on with the nearest messages of the other filters, if there are."""
        stamp = Time.from_msg(msg.header.stamp).nanoseconds
        with self.lock:
            my_queue[stamp] = msg
            while len(my_queue) > self.queue_size:
                del my_queue[min(my_queue)]
            if stamp not in my_queue:
                return
            candidates = [
                [stamp]
                if index == my_queue_index
                else sorted((s for s in queue if abs(s - stamp) <= self.slop), key=lambda s: abs(s - stamp))
                for index, queue in enumerate(self.queues)
            ]
            for stamps in product(*candidates):
                if max(stamps) - min(stamps) < max(self.slop, 1):
                    self.signalMessage(*(q[s] for q, s in zip(self.queues, stamps, strict=True)))
                    for queue, s in zip(self.queues, stamps, strict=True):
                        del queue[s]
                    return
