"""The last frames that were segmented, for those who point at something in one of them."""

import threading
from collections import deque

import numpy as np
from numpy.typing import NDArray

MOST_BYTES = 128_000_000
"""Of all images together: 20 s of 640 x 480 pixels at 7 Hz, 3 s of 1920 x 1080."""


class RecentFrames:
    """Keeps the last images, up to `MOST_BYTES`; the newest one always stays. Any thread may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._frames: deque[tuple[int, NDArray[np.uint8]]] = deque()
        self._bytes = 0

    def put(self, stamp: int, image: NDArray[np.uint8]) -> None:
        """Keep an image (H, W, 3) uint8 RGB, which nobody writes into, with its stamp in nanoseconds."""
        with self._lock:
            self._frames.append((stamp, image))
            self._bytes += image.nbytes
            while len(self._frames) > 1 and self._bytes > MOST_BYTES:
                self._bytes -= self._frames.popleft()[1].nbytes

    def find(self, stamp: int) -> NDArray[np.uint8]:
        """The newest image that is not after a stamp in nanoseconds; 0: the newest one.

        Raises:
            LookupError: no such image is kept any more, or none came yet.
        """
        with self._lock:
            if not self._frames:
                raise LookupError("expected a frame to teach from, got none yet; wait for the first result")
            for kept, image in reversed(self._frames):
                if kept <= stamp or stamp == 0:
                    return image
            oldest = self._frames[0][0]
        raise LookupError(
            f"expected the stamp of a recent frame, from {oldest / 1e9:.3f} s on, got {stamp / 1e9:.3f} s; "
            "point at a newer frame"
        )
