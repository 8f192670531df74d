"""Connected regions of one name: the nearest thing to instances that a label image gives."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ovs_ros.steps.segmentation import Segmentation


class Component(NamedTuple):
    """One connected region.

    Attributes:
        name: of its category.
        box: x, y, width and height, in pixels.
        area: how many pixels it has.
        score: the mean confidence of its pixels, 0 to 1.
    """

    name: str
    box: tuple[int, int, int, int]
    area: int
    score: float


def components(result: Segmentation, least_share: float) -> tuple[NDArray[np.int32], list[Component]]:
    """The connected regions of each name, its pixels' corners count as touching.

    Args:
        result: of a frame.
        least_share: of the image's pixels: smaller regions are left out.

    Returns:
        (H, W) int32: 0 for no region, n for the n-th region of the list.
    """
    labels = result.labels
    least = max(1.0, least_share * labels.size)
    mask = np.zeros(labels.shape, np.int32)
    found: list[Component] = []
    for number, name, share in zip(result.selected_ids, result.selected_names, result.shares, strict=True):
        if round(share * labels.size) < least:
            continue
        pixels = (labels == number).view(np.uint8)
        x, y, width, height = cv2.boundingRect(pixels)
        window = slice(y, y + height), slice(x, x + width)
        count, regions, stats, _ = cv2.connectedComponentsWithStats(
            np.ascontiguousarray(pixels[window]), connectivity=8, ltype=cv2.CV_32S
        )
        kept = np.flatnonzero(stats[1:, cv2.CC_STAT_AREA] >= least) + 1
        sums = np.bincount(regions.ravel(), result.confidence[window].ravel(), count)
        numbers = np.zeros(count, np.int32)
        numbers[kept] = np.arange(len(found) + 1, len(found) + len(kept) + 1)
        mask[window] += numbers[regions]
        scores = sums[kept] / stats[kept, cv2.CC_STAT_AREA] / 255
        found += [
            Component(name, (x + left, y + top, wide, high), area, score)
            for (left, top, wide, high, area), score in zip(
                stats[kept].tolist(), scores.tolist(), strict=True
            )
        ]
    return mask, found
