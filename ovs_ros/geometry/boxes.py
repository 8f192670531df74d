"""Boxes in space around regions of a depth image."""

import numpy as np
from numpy.typing import NDArray

from ovs_ros.geometry.points import Intrinsics

LEAST_POINTS = 10
"""Of a region, to have a box."""
_TAILS = (5, 95)
"""Percentiles of the points that a box goes to: a region's edge often lies on what is behind it."""


def region_boxes(
    regions: NDArray[np.int32], count: int, metres: NDArray[np.float32], camera: Intrinsics
) -> NDArray[np.float64]:
    """Boxes along the axes of the camera's optical frame.

    Args:
        regions: (H, W), 0 for no region, n for the n-th.
        count: N, how many regions there are.
        metres: (H, W) depth along z, NaN where there is none.
        camera: of the image.

    Returns:
        (N, 2, 3), of each region the middle and the size of its box in metres: x right, y down, z forward.
        NaN for regions with fewer than LEAST_POINTS points.
    """
    boxes = np.full((count, 2, 3), np.nan)
    rows, columns = np.nonzero((regions > 0) & np.isfinite(metres))
    numbers = regions[rows, columns]
    order = np.argsort(numbers, kind="stable")
    rows, columns, numbers = rows[order], columns[order], numbers[order]
    z = metres[rows, columns].astype(np.float64)
    points = np.stack(((columns - camera.cx) * z / camera.fx, (rows - camera.cy) * z / camera.fy, z), axis=1)
    ends = np.searchsorted(numbers, np.arange(1, count + 2))
    for place, (start, end) in enumerate(zip(ends[:-1], ends[1:], strict=True)):
        if end - start >= LEAST_POINTS:
            low, high = np.percentile(points[start:end], _TAILS, axis=0)
            boxes[place] = (low + high) / 2, high - low
    return boxes
