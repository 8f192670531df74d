"""Frames, and where they wait for the worker: the newest one of each camera."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Generic, TypeVar

from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from ovs_ros.ros.turns import Turns


def nanoseconds(header: Header) -> int:
    """A header's stamp in nanoseconds."""
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec


@dataclass(eq=False)
class Frame:
    """An image and the messages that belong to it by their stamps; None where they have not come.

    Attributes:
        camera_info: the one with the image's stamp, otherwise the newest.
        depth, pose: the nearest within the slop.
        arrived: when the image came, monotonic seconds.
    """

    image: Image | CompressedImage
    camera_info: CameraInfo | None = None
    depth: Image | CompressedImage | None = None
    pose: PoseStamped | None = None
    arrived: float = field(default_factory=monotonic)

    @property
    def stamp(self) -> int:
        """The image's stamp in nanoseconds."""
        return nanoseconds(self.image.header)


Item = TypeVar("Item")


class FrameQueue(Generic[Item]):
    """The newest frame of each camera waits for a worker; it replaces an older one that still waits.

    Frames are of any kind: as they come, or prepared for the model.

    Any thread may call any method; only `take` waits.

    Args:
        cameras: how many; their indices are 0 to cameras - 1.
        priorities: called for one number for each camera, above 0.

    Attributes:
        changed: guards the queue and the cameras' inputs; notified of all that happens to them.
    """

    def __init__(self, cameras: int = 1, priorities: Callable[[], Sequence[float]] | None = None) -> None:
        self.changed = threading.Condition()
        self._priorities = priorities or (lambda: (1.0,) * cameras)
        self._turns = Turns(cameras)
        self._waiting: list[Item | None] = [None] * cameras
        self._at_work: list[tuple[int, Item]] = []
        self._woken = False
        self._closed = False

    def put(self, camera: int, frame: Item) -> Item | None:
        """Put a camera's frame in, in place of the one that waits, which is returned."""
        with self.changed:
            replaced, self._waiting[camera] = self._waiting[camera], frame
            self.changed.notify_all()
            return replaced

    def frames(self, camera: int) -> list[Item]:
        """The frames of a camera that wait or are at work."""
        with self.changed:
            found = [] if (waiting := self._waiting[camera]) is None else [waiting]
            return found + [frame for other, frame in self._at_work if other == camera]

    def waits(self, camera: int) -> bool:
        """Whether a frame of a camera waits."""
        return self._waiting[camera] is not None

    @property
    def anything_waits(self) -> bool:
        """Whether a frame of any camera waits."""
        return any(frame is not None for frame in self._waiting)

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def wake(self) -> None:
        """Let a waiting `take` return without a frame."""
        with self.changed:
            self._woken = True
            self.changed.notify_all()

    def close(self) -> None:
        """End all waiting, now and later. Frames that nobody took are dropped."""
        with self.changed:
            self._closed = True
            self._waiting = [None] * len(self._waiting)
            self.changed.notify_all()

    def take(self, most: int = 1, patience: float | None = None) -> list[tuple[int, Item]]:
        """Wait for a frame and take it out, with its camera; nothing if it was woken or closed instead.

        Args:
            most: how many frames to take at most, each of another camera, if they wait already.
            patience: seconds after which nothing is taken; None: it waits on.
        """
        with self.changed:
            self._at_work = []
            self.changed.wait_for(lambda: self.anything_waits or self._woken or self._closed, patience)
            self._woken = False
            frames = {camera: frame for camera, frame in enumerate(self._waiting) if frame is not None}
            if frames:
                for camera in self._turns.next(frames, self._priorities(), most):
                    self._waiting[camera] = None
                    self._at_work.append((camera, frames[camera]))
            return self._at_work
