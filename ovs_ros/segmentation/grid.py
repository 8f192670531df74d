"""The part of an encoder's grid that lies on the image."""

import math

import numpy as np
from numpy.typing import NDArray


def covered(nodes: int, extent: float) -> int:
    """How many of a row's nodes stand for a piece of the image, at least one.

    Args:
        nodes: length of the row.
        extent: the share of the row that the image covers, in (0, 1]; the rest is padding.
    """
    # A hair of padding comes from rounding the extent and is none.
    return max(1, min(nodes, math.ceil(nodes * extent - 1e-4)))


def crop(grid: NDArray[np.float32], extent: tuple[float, float]) -> NDArray[np.float32]:
    """A view of a grid (h, w, D) without the nodes that stand for padding alone."""
    return grid[: covered(grid.shape[0], extent[0]), : covered(grid.shape[1], extent[1])]
