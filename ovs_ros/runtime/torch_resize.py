"""Shrinking of images on a device, to the pixels that OpenCV gives on the CPU.

OpenCV's area interpolation takes 1.6 ms for a frame of 640 x 480 on one core, more than a large GPU takes for
the whole network.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Shrink:
    """Shrinks images of one size to another, each new pixel the mean of the area that it covers.

    The same as `cv2.resize` with INTER_AREA, in its order, so that values halfway between two integers are
    rounded as there.

    Args:
        source, target: (height, width) in pixels; the target is in no direction larger.
        device: where the images lie.
    """

    def __init__(self, source: tuple[int, int], target: tuple[int, int], device: torch.device) -> None:
        (rows, row_shares), (columns, column_shares) = (
            _areas(before, after) for before, after in zip(source, target, strict=True)
        )
        self._rows = torch.from_numpy(rows).to(device)  # (h, k)
        self._row_shares = torch.from_numpy(row_shares).to(device)[:, :, None, None]
        self._columns = torch.from_numpy(columns).to(device)  # (w, l)
        self._column_shares = torch.from_numpy(column_shares).to(device)[:, :, None]
        # OpenCV rounds halves up where it adds up squares of 2 x 2, and to even numbers elsewhere.
        self._halves_up = source == (2 * target[0], 2 * target[1])

    def __call__(self, image: Tensor) -> Tensor:
        """(H, W, 3) uint8 to (h, w, 3) uint8, both of the sizes given."""
        narrow = (image[:, self._columns] * self._column_shares).sum(2)  # (H, w, 3) float32
        small = (narrow[self._rows] * self._row_shares).sum(1)  # (h, w, 3)
        return (small + 0.5 if self._halves_up else small.round()).to(torch.uint8)


def _areas(source: int, target: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Which pixels of an axis make each new one, and their shares: (target, k) each, shares sum up to 1."""
    scale = source / target
    start = np.arange(target)[:, None] * scale
    pixels = np.floor(start).astype(np.int64) + np.arange(int(np.ceil(scale)) + 1)
    covered = np.minimum(start + scale, pixels + 1) - np.maximum(start, pixels)
    shares = np.maximum(covered, 0) / scale
    return np.minimum(pixels, source - 1), shares.astype(np.float32)
