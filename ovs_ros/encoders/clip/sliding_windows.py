"""Sliding windows over a grid of patches, and the mean of their outputs.

Patches that several windows cover get the mean of what each gave. Embeddings are averaged and brought back to
unit length, which for cosines is the mean of the windows' cosines over the length of the mean; where a model
decodes by itself its logits are averaged, as CAT-Seg does.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Windows:
    """Positions of windows on a grid, in patches.

    Attributes:
        rows, columns: the whole grid.
        height, width: of each window, no larger than the grid.
        corners: (top, left) of each window, row by row. Together they cover the grid.
    """

    rows: int
    columns: int
    height: int
    width: int
    corners: tuple[tuple[int, int], ...]


@lru_cache(maxsize=16)
def lay_windows(rows: int, columns: int, window: int, stride: int) -> Windows:
    """Lay windows over a grid; the last of a row or column is shifted inwards, so that none reaches beyond.

    Args:
        rows, columns: the grid, in patches.
        window: a window's side in patches; 0: one window, the whole grid.
        stride: from one window to the next in patches, from 1 to `window`; else patches would be left out.

    Raises:
        ValueError: the stride is out of its range.
    """
    if window and not 1 <= stride <= window:
        raise ValueError(f"expected a stride from 1 to the window of {window} patches, got {stride}")
    height, width = (min(window, side) if window else side for side in (rows, columns))
    tops, lefts = _starts(rows, height, stride), _starts(columns, width, stride)
    return Windows(rows, columns, height, width, tuple((top, left) for top in tops for left in lefts))


def _starts(length: int, window: int, stride: int) -> list[int]:
    if window == length:
        return [0]
    return [*range(0, length - window, stride), length - window]


def crops(images: Tensor, windows: Windows, patch: int) -> Tensor:
    """Cut B images into W windows each.

    Args:
        images: (B, C, rows*patch, columns*patch).
        windows: where they lie.
        patch: a patch's side in pixels.

    Returns:
        (W*B, C, height*patch, width*patch), the images of each window together.
    """
    if len(windows.corners) == 1:
        return images
    height, width = windows.height * patch, windows.width * patch
    return torch.cat(
        [
            images[:, :, top * patch : top * patch + height, left * patch : left * patch + width]
            for top, left in windows.corners
        ]
    )


def merge(grids: Tensor, windows: Windows, scale: int = 1) -> Tensor:
    """The mean of what the windows of one image gave at each place.

    Args:
        grids: (W, height*scale, width*scale, C), one for each window.
        windows: their positions.
        scale: how many places of the grids' a patch's side has.

    Returns:
        (rows*scale, columns*scale, C).
    """
    if len(windows.corners) == 1:
        return grids[0]
    total = grids.new_zeros((windows.rows * scale, windows.columns * scale, grids.shape[3]))
    count = grids.new_zeros((windows.rows * scale, windows.columns * scale, 1))
    height, width = windows.height * scale, windows.width * scale
    for grid, (top, left) in zip(grids, windows.corners, strict=True):
        place = (slice(top * scale, top * scale + height), slice(left * scale, left * scale + width))
        total[place] += grid
        count[place] += 1
    return total / count
