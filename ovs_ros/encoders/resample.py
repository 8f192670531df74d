"""Antialiased bicubic resampling of a grid of vectors, for position tables."""

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
