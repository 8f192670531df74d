"""The last frames that were segmented, for those who point at something in one of them."""

import threading
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ovs_ros.runtime.quoting import quoted

MOST_BYTES = 48_000_000
"""Of all images together: 100 of 640 x 480 pixels, 15 of 1920 x 1080."""


class RecentFrame(NamedTuple):
    """A frame that was segmented.

    Attributes:
        image: (H, W, 3) uint8 RGB, nearly as it was; nobody writes into it.
        rotation: by how many degrees the model saw it turned clockwise: 0, 90, 180 or 270.
    """

    image: NDArray[np.uint8]
    rotation: int


class _Kept(NamedTuple):
    """A frame as it is kept: (H * 3 / 2, W) YUV 4:2:0, or (H, W, 3) RGB where a side is odd."""

    camera: str
    stamp: int
    pixels: NDArray[np.uint8]
    rotation: int

    def shown(self) -> RecentFrame:
        planes = self.pixels
        image = cv2.cvtColor(planes, cv2.COLOR_YUV2RGB_I420) if planes.ndim == 2 else planes
        return RecentFrame(image, self.rotation)


class RecentFrames:
    """Keeps the last images of all cameras, up to `MOST_BYTES`; the newest one of each camera always stays.

    Any thread may call it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._frames: list[_Kept] = []
        self._bytes = 0

    def put(self, camera: str, stamp: int, image: NDArray[np.uint8], rotation: int = 0) -> None:
        """Keep an image, as `RecentFrame` has it, with its stamp in nanoseconds.

        It is kept in half the bytes, with one value of colour for four pixels, as in a JPEG file.
        """
        even = not (image.shape[0] % 2 or image.shape[1] % 2)
        kept = _Kept(camera, stamp, cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420) if even else image, rotation)
        with self._lock:
            self._frames.append(kept)
            self._bytes += kept.pixels.nbytes
            if self._bytes > MOST_BYTES:
                self._make_room()

    def _make_room(self) -> None:
        newest = {frame.camera: index for index, frame in enumerate(self._frames)}
        kept = []
        for index, frame in enumerate(self._frames):
            if self._bytes > MOST_BYTES and newest[frame.camera] != index:
                self._bytes -= frame.pixels.nbytes
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
            frames = [frame for frame in self._frames if camera in ("", frame.camera)]
            cameras = sorted({frame.camera for frame in self._frames if frame.camera})
        if not frames and cameras:
            raise LookupError(
                f"expected a camera with frames, one of {', '.join(cameras)}, got {quoted(camera)}"
            )
        if not frames:
            raise LookupError(
                "expected a frame to teach from, got none yet; subscribe to a result and wait for the first"
            )
        for frame in reversed(frames):
            if frame.stamp <= stamp or stamp == 0:
                return frame.shown()
        raise LookupError(
            f"expected the stamp of a recent frame, from {frames[0].stamp / 1e9:.3f} s on, got "
            f"{stamp / 1e9:.3f} s; point at a newer frame"
        )
