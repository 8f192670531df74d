"""Bilinear resampling of grids of vectors."""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray


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


def mirror(grid: NDArray[np.float32], extent: float) -> NDArray[np.float32]:
    """The grid (h, w, C) of a mirrored image as that of the image itself, left and right exchanged.

    Args:
        grid: (h, w, C) float32.
        extent: the share of the columns that the image covers, from the left; the rest stays padding.

    Returns:
        (h, w, C) float32, C-contiguous.
    """
    return _mirror_matrix(grid.shape[1], extent) @ grid  # (w, w) @ (h, w, C)


@lru_cache(maxsize=64)
def _mirror_matrix(columns: int, extent: float) -> NDArray[np.float32]:
    """(columns, columns): where the image ends within a column, the two beside each mirrored node count."""
    return _between(columns * extent - 1 - np.arange(columns), columns)


@lru_cache(maxsize=64)
def bilinear_matrix(
    source: int, source_extent: float, target: int, target_extent: float
) -> NDArray[np.float32]:
    """The (target, source) matrix that resamples one axis of a grid to another grid over the same image.

    Nodes lie in the middle of their cells; beyond the outer ones the nearest counts.
    """
    position = (np.arange(target) + 0.5) / (target * target_extent) * (source * source_extent) - 0.5
    return _between(position, source)


def _between(position: NDArray[np.floating[Any]], source: int) -> NDArray[np.float32]:
    """The (target, source) matrix that interpolates at positions (target,) among nodes, read-only."""
    position = np.clip(position, 0, source - 1)
    low = np.minimum(position.astype(int), max(source - 2, 0))
    matrix = np.zeros((len(position), source), np.float32)
    rows = np.arange(len(position))
    matrix[rows, low] = 1 - (position - low)
    matrix[rows, np.minimum(low + 1, source - 1)] += (position - low).astype(np.float32)
    matrix.setflags(write=False)
    return matrix
