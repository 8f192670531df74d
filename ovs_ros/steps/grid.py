"""How an encoder's grid lies on the image."""

import math

import numpy as np
from numpy.typing import NDArray

from ovs_ros.encoders.features import Features


def covered(nodes: int, valid: float) -> int:
    """How many of a row's nodes stand for a piece of the image, at least one.

    Args:
        nodes: length of the row.
        valid: the share of the row that the image covers, in (0, 1]; the rest is padding.
    """
    # A hair of padding comes from rounding the valid and is none.
    return max(1, min(nodes, math.ceil(nodes * valid - 1e-4)))


def crop(grid: NDArray[np.float32], valid: tuple[float, float]) -> NDArray[np.float32]:
    """A view of a grid (h, w, D) without the nodes that stand for padding alone."""
    return grid[: covered(grid.shape[0], valid[0]), : covered(grid.shape[1], valid[1])]


def at_nodes(labels: NDArray[np.integer], features: Features, nodes: tuple[int, ...]) -> NDArray[np.integer]:
    """The labels of the pixels under the nodes of a fine grid.

    Args:
        labels: (H, W), of the image that the features belong to.
        features: say how the grid lies on the image.
        nodes: (rows, cols) of the grid, padding left out.

    Returns:
        (rows, cols), of the labels' dtype.
    """
    places = []
    for axis in (0, 1):
        pixels = labels.shape[axis] / (features.grid[axis] * features.valid[axis])
        centres = ((np.arange(nodes[axis]) + 0.5) * pixels).astype(np.intp)
        places.append(np.minimum(centres, labels.shape[axis] - 1))
    return labels[np.ix_(*places)]
