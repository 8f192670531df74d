"""Dense optical flow by inverse search (DIS; Kroeger et al., ECCV 2016)."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ovs_ros.geometry.warp import NOWHERE, Warp

LONG_SIDE = 320
"""Flow is computed on images of at most so many pixels along their longer side, and at least SHORT_SIDE."""
SHORT_SIDE = 32
MISMATCH = 20.0
"""Grey levels out of 255 by which a pixel may differ from the pixel that it comes from."""
CUT_SHARE = 0.5
"""It is a cut if more than this share of the pixels does not match the frame before."""


@dataclass(frozen=True, eq=False)
class DownscaledFrame:
    """A small grey copy of an image, for flow.

    Attributes:
        gray: (h, w) uint8.
        size: (H, W) of the image.
    """

    gray: NDArray[np.uint8]
    size: tuple[int, int]

    @classmethod
    def of(cls, image: NDArray[np.uint8]) -> "DownscaledFrame":
        """Of an image (H, W, 3) uint8 RGB, which is not kept."""
        height, width = image.shape[:2]
        scale = min(LONG_SIDE / max(height, width), 1.0)
        small = (max(round(width * scale), SHORT_SIDE), max(round(height * scale), SHORT_SIDE))
        if height == width == 1:  # OpenCV 4.5 takes it for one channel of three pixels.
            image = np.repeat(image, 2, axis=1)
        resized = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        return cls(cv2.cvtColor(resized, cv2.COLOR_RGB2GRAY), (height, width))


class OpticalFlow:
    """Follows pixels from one image to an earlier one. For one thread.

    If it is asked again for the same earlier image, it starts from its last answer: that finds motion which
    is larger than a single search does.
    """

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._last: tuple[DownscaledFrame, NDArray[np.float32]] | None = None

    def __call__(self, now: DownscaledFrame, before: DownscaledFrame) -> Warp | None:
        """Where the pixels of one image were in an earlier one of the same size; None after a cut."""
        height, width = now.size
        small_height, small_width = now.gray.shape
        start = None
        if self._last is not None and self._last[0] is before:
            start = self._last[1]
        flow = self._flow.calc(now.gray, before.gray, start)  # (h, w, 2) pixels, right and down
        right, down = cv2.split(flow)
        columns, rows = np.arange(small_width, dtype=np.float32), np.arange(small_height, dtype=np.float32)
        source = cv2.remap(
            before.gray,
            right + columns,
            down + rows[:, None],
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        mismatch = cv2.blur(cv2.absdiff(source, now.gray), (5, 5))  # (h, w) uint8
        wrong = mismatch > MISMATCH
        if wrong.mean() > CUT_SHARE:
            self._last = None
            return None
        self._last = before, flow
        x = cv2.resize(right * np.float32(width / small_width), (width, height))
        y = cv2.resize(down * np.float32(height / small_height), (width, height))
        x += np.arange(width, dtype=np.float32)
        y += np.arange(height, dtype=np.float32)[:, None]
        away = wrong.astype(np.float32) * NOWHERE  # (h, w)
        doubt = cv2.resize(away, (width, height), interpolation=cv2.INTER_NEAREST)
        return Warp(np.add(x, doubt, out=doubt), y, x, mismatch)
