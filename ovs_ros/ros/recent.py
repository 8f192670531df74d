"""The last frames that were segmented, for those who point at something in one of them."""

import threading
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ovs_ros.runtime.quoting import quoted

MOST_BYTES = 128_000_000
"""Of all images together: 20 s of 640 x 480 pixels at 7 Hz, 3 s of 1920 x 1080."""


class RecentFrame(NamedTuple):
    """A frame that was segmented.

    Attributes:
        image: (H, W, 3) uint8 RGB, which nobody writes into.
        rotation: by how many degrees the model saw it turned clockwise: 0, 90, 180 or 270.
    """

    image: NDArray[np.uint8]
    rotation: int


class RecentFrames:
    """Keeps the last images of all cameras, up to `MOST_BYTES`; the newest one of each camera always stays.

    Any thread may call it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._frames: list[tuple[str, int, RecentFrame]] = []
        self._bytes = 0

    def put(self, camera: str, stamp: int, image: NDArray[np.uint8], rotation: int = 0) -> None:
        """Keep an image, as `RecentFrame` has it, with its stamp in nanoseconds."""
        with self._lock:
            self._frames.append((camera, stamp, RecentFrame(image, rotation)))
            self._bytes += image.nbytes
            if self._bytes > MOST_BYTES:
                self._make_room()

    def _make_room(self) -> None:
        newest = {camera: index for index, (camera, _, _) in enumerate(self._frames)}
        kept = []
        for index, frame in enumerate(self._frames):
            if self._bytes > MOST_BYTES and newest[frame[0]] != index:
                self._bytes -= frame[2].image.nbytes
            else:
                kept.append(frame)
        self._frames = kept

    def find(self, stamp: int, camera: str = "") -> RecentFrame:
        """The newest frame that is not after a stamp.

        Args:
            stamp: nanoseconds; 0: the newest frame.
            camera: whose; empty: any camera's.

        Raises:
            LookupError: no such frame is kept any more, or none came yet.
        """
        with self._lock:
            frames = [frame for frame in self._frames if camera in ("", frame[0])]
            cameras = sorted({name for name, _, _ in self._frames if name})
        if not frames and cameras:
            raise LookupError(
                f"expected a camera with frames, one of {', '.join(cameras)}, got {quoted(camera)}"
            )
        if not frames:
            raise LookupError(
                "expected a frame to teach from, got none yet; subscribe to a result and wait for the first"
            )
        for _, kept, frame in reversed(frames):
            if kept <= stamp or stamp == 0:
                return frame
        raise LookupError(
            f"expected the stamp of a recent frame, from {frames[0][1] / 1e9:.3f} s on, got "
            f"{stamp / 1e9:.3f} s; point at a newer frame"
        )
