"""Resampling of grids of vectors: antialiased bicubic for position tables, bilinear between grids."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


def bicubic_matrix(source: int, target: int) -> NDArray[np.float32]:
    """The (target, source) matrix that resamples `source` values to `target`, antialiased when shrinking.

    Keys' cubic with a = -0.5, widened by the shrink factor: what torch's `interpolate(mode="bicubic",
    antialias=True)` computes, with which DINOv2's position table is resampled.
    """
    scale = source / target
    support = max(scale, 1.0)
    centres = (np.arange(target) + 0.5) * scale  # (target,)
    distance = np.abs(np.arange(source) + 0.5 - centres[:, None]) / support  # (target, source)
    a = -0.5
    near = ((a + 2.0) * distance - (a + 3.0)) * distance**2 + 1.0
    far = a * (((distance - 5.0) * distance + 8.0) * distance - 4.0)
    weights = np.where(distance < 1.0, near, np.where(distance < 2.0, far, 0.0))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def resample_grid(table: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Resample a (h, w, C) table to (height, width, C)."""
    rows = bicubic_matrix(table.shape[0], height)  # (height, h)
    columns = bicubic_matrix(table.shape[1], width)  # (width, w)
    return np.ascontiguousarray(np.einsum("ij,jkc,lk->ilc", rows, table, columns, optimize=True), np.float32)


def resample_bilinear(
    grid: NDArray[np.float32],
    target: tuple[int, int],
    source_extent: tuple[float, float],
    target_extent: tuple[float, float],
) -> NDArray[np.float32]:
    """Resample a grid (h, w, C) to another one over the same image, any number of channels.

    Args:
        grid: (h, w, C) float32.
        target: (rows, columns) of the other grid.
        source_extent, target_extent: the share (y, x) of each grid that the image covers.

    Returns:
        (rows, columns, C) float32, C-contiguous.
    """
    to_rows, to_columns = (
        bilinear_matrix(grid.shape[axis], source_extent[axis], target[axis], target_extent[axis])
        for axis in (0, 1)
    )
    tall = (to_rows @ grid.reshape(len(grid), -1)).reshape(target[0], *grid.shape[1:])  # (rows, w, C)
    return to_columns @ tall  # (columns, w) @ (rows, w, C)


@lru_cache(maxsize=64)
def bilinear_matrix(
    source: int, source_extent: float, target: int, target_extent: float
) -> NDArray[np.float32]:
    """The (target, source) matrix that resamples one axis of a grid to another grid over the same image.

    Nodes lie in the middle of their cells; beyond the outer ones the nearest counts.
    """
    position = (np.arange(target) + 0.5) / (target * target_extent) * (source * source_extent) - 0.5
    position = np.clip(position, 0, source - 1)
    low = np.minimum(position.astype(int), max(source - 2, 0))
    matrix = np.zeros((target, source), np.float32)
    rows = np.arange(target)
    matrix[rows, low] = 1 - (position - low)
    matrix[rows, np.minimum(low + 1, source - 1)] += (position - low).astype(np.float32)
    matrix.setflags(write=False)
    return matrix
