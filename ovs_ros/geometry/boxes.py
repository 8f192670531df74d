"""Boxes in space around regions of a depth image."""

import math

import numpy as np
from numpy.typing import NDArray

from ovs_ros.geometry.points import Intrinsics

LEAST_POINTS = 10
"""Of a region, to have a box."""
_TAIL = 0.05
"""The share of the points that a box leaves out at each end: a region's edge may lie on what is behind it."""
_SAMPLE = 1000
"""About how many points of a region are looked at."""


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
    width = regions.shape[1]
    boxes = np.full((count, 2, 3), np.nan)
    pixels = np.flatnonzero((regions > 0) & np.isfinite(metres))
    numbers = regions.ravel()[pixels]
    # Sorting 16 bits takes a tenth of the time.
    order = np.argsort(numbers.astype(np.uint16) if count < 65536 else numbers, kind="stable")
    pixels = pixels[order]
    ends = np.searchsorted(numbers[order], np.arange(1, count + 2))
    for place, (start, end) in enumerate(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)):
        if end - start < LEAST_POINTS:
            continue
        step = (end - start) // _SAMPLE + 1
        while math.gcd(step, width) > 1:  # Or some columns would be left out.
            step += 1
        rows, columns = np.divmod(pixels[start:end:step], width)
        z = metres[rows, columns].astype(np.float64)
        x, y = (columns - camera.cx) * z / camera.fx, (rows - camera.cy) * z / camera.fy
        points = np.sort([x, y, z])
        last = points.shape[1] - 1
        low, high = points[:, round(last * _TAIL)], points[:, round(last * (1 - _TAIL))]
        boxes[place] = (low + high) / 2, high - low
    return boxes
