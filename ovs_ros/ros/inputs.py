"""A camera's messages on their way to the worker: each image with its own depth, pose and calibration."""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any

from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from ovs_ros.ros.frames import Frame, FrameQueue, nanoseconds
from ovs_ros.ros.turns import RateLimit

KEPT = {"depth": 10, "pose": 100, "camera_info": 10}
"""How many messages of each topic wait for their image. Poses may come ten times as often as images."""
WAIT_S = 0.1
"""How long the worker waits for a frame's depth, and for its pose."""
PAIRED_LATELY_S = 2.0
REPLACED, ABOVE_MAX_RATE = "replaced by a newer one", "above max_rate"
"""Why images are dropped on their way to the worker."""


@dataclass(frozen=True)
class Missing:
    """A topic that the latest frames needed and did not get.

    Attributes:
        name: 'depth', 'pose' or 'camera_info'.
        seconds: since a frame last had it, or was first found without it.
        silence: seconds since a message of it came; None if none ever came.
        offset: the stamp of the nearest message minus the stamp of the last such frame, in seconds; None if
            there is none.
        late: how many seconds after the image its message came, too late; None if that did not happen
            lately.
    """

    name: str
    seconds: float
    silence: float | None
    offset: float | None
    late: float | None


class _Topic:
    """The messages of one topic other than the image, and how well they fit the images."""

    def __init__(self, kept: int) -> None:
        self.recent: deque[Any] = deque(maxlen=kept)
        self.arrived: float | None = None
        self.paired = -math.inf  # when a frame got one, or would have got one by waiting
        self.missed: deque[tuple[int, float, float]] = deque(maxlen=kept)  # stamp, arrived, asked for
        self.missing_since: float | None = None
        self.last_miss = 0.0
        self.offset: float | None = None
        self.late: tuple[float, float] | None = None  # when it was seen, seconds


class Inputs:
    """Gives each image of a camera its depth, pose and calibration, and puts it into the queue.

    The waiting frame and the one at work take these messages as they come, so that later ones do not push
    them out. Any thread may call any method; only `wait_for` waits.

    Args:
        slop: how many seconds the stamps of an image and of its depth, pose or calibration may differ.
        queue: where frames wait for the worker.
        camera: its index there.
        max_rate: called for how many images a second go into the queue at most; 0: all.
    """

    def __init__(
        self,
        slop: float,
        queue: FrameQueue[Frame],
        camera: int = 0,
        max_rate: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.slop = slop
        self._queue = queue
        self._camera = camera
        self._max_rate = max_rate
        self._rate_limit = RateLimit()
        self._changed = queue.changed
        self._topics = {name: _Topic(kept) for name, kept in KEPT.items()}

    def put_image(self, image: Image | CompressedImage) -> str:
        """Put an image in. Returns why it, or the one that it replaces, is dropped; empty: neither is."""
        frame, rate = Frame(image), self._max_rate()
        with self._changed:
            # Where one waits already, the newer one takes its place and is not one more.
            waits = self._queue.waits(self._camera)
            if rate and not waits and not self._rate_limit.passes(frame.arrived, rate):
                return ABOVE_MAX_RATE
            self._offer_recent(frame)
            self._queue.put(self._camera, frame)
        return REPLACED if waits else ""

    def complete(self, frame: Frame) -> None:
        """Give a frame that was at work before what has come for it since then."""
        with self._changed:
            self._offer_recent(frame)

    def put(self, name: str, message: Image | CompressedImage | PoseStamped | CameraInfo) -> None:
        """Put a message of the topic `name` in: 'depth', 'pose' or 'camera_info'."""
        now = monotonic()
        stamp = nanoseconds(message.header)
        with self._changed:
            topic = self._topics[name]
            topic.recent.append(message)
            topic.arrived = now
            for frame in self._queue.frames(self._camera):
                self._offer(frame, name, message)
            for missed_stamp, arrived, asked in topic.missed:
                if abs(stamp - missed_stamp) <= self.slop * 1e9:
                    topic.late = (now, now - arrived)
                    if now - asked < WAIT_S:
                        topic.paired = now
            self._changed.notify_all()

    def clear(self) -> None:
        """Forget the messages that wait for their image."""
        with self._changed:
            for topic in self._topics.values():
                topic.recent.clear()

    def newest(self, name: str) -> Any:
        """The message of a topic that came last, or None."""
        with self._changed:
            recent = self._topics[name].recent
            return recent[-1] if recent else None

    def wait_for(self, frame: Frame, name: str, timeout: float = WAIT_S) -> Any:
        """The message of the topic `name` that belongs to the frame at work, or None.

        Waits until the topic's stamps are past the frame's, `timeout` seconds at most. If frames did not get
        this message lately, a frame that waits ends the waiting, whichever camera's.
        """
        asked = monotonic()
        with self._changed:
            topic = self._topics[name]

            def settled() -> bool:
                return (
                    getattr(frame, name) is not None
                    or self._queue.closed
                    or (self._queue.anything_waits and not self._comes(topic))
                    or self._is_past(topic, frame)
                )

            self._changed.wait_for(settled, timeout)
            message, now = getattr(frame, name), monotonic()
            if message is not None:
                topic.missing_since, topic.paired = None, now
                return message
            topic.last_miss = now
            topic.missing_since = topic.missing_since or now
            topic.missed.append((frame.stamp, frame.arrived, asked))
            offsets = [(nanoseconds(other.header) - frame.stamp) / 1e9 for other in topic.recent]
            topic.offset = min(offsets, key=abs, default=None)
            return None

    def missing(self, recent_s: float = 5.0) -> list[Missing]:
        """The topics that frames of the last `recent_s` seconds lacked."""
        now = monotonic()
        with self._changed:
            return [
                Missing(
                    name,
                    now - topic.missing_since,
                    None if topic.arrived is None else now - topic.arrived,
                    topic.offset,
                    topic.late[1] if topic.late is not None and now - topic.late[0] < recent_s else None,
                )
                for name, topic in self._topics.items()
                if topic.missing_since is not None and now - topic.last_miss < recent_s
            ]

    def _offer_recent(self, frame: Frame) -> None:
        """Offer the frame all messages that wait for an image. The lock is held."""
        for name, topic in self._topics.items():
            for message in topic.recent:
                self._offer(frame, name, message)

    def _offer(self, frame: Frame, name: str, message: Any) -> None:
        """Give the frame the message if that fits better than what it has. The lock is held."""

        def distance(other: Any) -> int:
            return abs(nanoseconds(other.header) - frame.stamp)

        present, slop = getattr(frame, name), self.slop * 1e9
        if distance(message) <= slop:
            if present is None or distance(message) <= distance(present):
                setattr(frame, name, message)
        elif name == "camera_info" and (present is None or distance(present) > slop):
            # A calibration holds until the next one comes, whatever its stamp.
            setattr(frame, name, message)

    def _comes(self, topic: _Topic) -> bool:
        """Whether waiting gets frames a message of the topic. The lock is held."""
        return monotonic() - topic.paired < PAIRED_LATELY_S

    def _is_past(self, topic: _Topic, frame: Frame) -> bool:
        """Whether the topic's newest message is of after the frame. The lock is held."""
        return bool(topic.recent) and nanoseconds(topic.recent[-1].header) > frame.stamp + self.slop * 1e9
