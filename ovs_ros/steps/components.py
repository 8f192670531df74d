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
    """The connected regions of each name; pixels touch at their sides, not at their corners.

    Args:
        result: of a frame.
        least_share: of the image's pixels: smaller regions are left out.

    Returns:
        (H, W) int32: 0 for no region, n for the n-th region of the list.
    """
    labels, vocabulary = result.labels, result.vocabulary
    # Between pixels lies a link where their labels agree: all names' regions in one pass.
    height, width = labels.shape
    linked = np.zeros((2 * height - 1, 2 * width - 1), np.uint8)
    linked[::2, ::2] = labels != result.unknown_id
    linked[::2, 1::2] = (labels[:, 1:] == labels[:, :-1]) & linked[::2, :-1:2]
    linked[1::2, ::2] = (labels[1:] == labels[:-1]) & linked[:-1:2, ::2]
    count, numbers, stats, _ = cv2.connectedComponentsWithStats(linked, connectivity=4, ltype=cv2.CV_32S)
    regions = np.ascontiguousarray(numbers[::2, ::2])
    flat = regions.ravel()
    areas = np.bincount(flat, minlength=count)
    kept = np.flatnonzero(areas[1:] >= max(1.0, least_share * labels.size)) + 1
    scores = np.bincount(flat, result.confidence.ravel(), count)[kept] / areas[kept] / 255
    ids = np.zeros(count, labels.dtype)
    ids[flat] = labels.ravel()
    names = dict(zip(vocabulary.ids.tolist(), vocabulary.names, strict=True))
    boxes = (stats[kept, :4] + (0, 0, 1, 1)) // 2
    found = [
        Component(names[number], (left, top, wide, high), area, score)
        for number, (left, top, wide, high), area, score in zip(
            ids[kept].tolist(), boxes.tolist(), areas[kept].tolist(), scores.tolist(), strict=True
        )
    ]
    renumbered = np.zeros(count, np.int32)
    renumbered[kept] = np.arange(1, len(kept) + 1)
    return renumbered[regions], found
