"""A threshold for each category, from calibrated confidences on images without labels.

Where confidences are calibrated, their mean over some pixels is the share of those pixels that is right. So
the pixels of a category that are at least as sure as a threshold are right, as far as one can know without
labels, in the share that their mean confidence says. A category gets the lowest threshold at which that share
reaches the wanted precision; one that reaches it without any gets none. A limit keeps a category that is
never sure from vanishing. The rule is ours.
"""

import math

import numpy as np
from numpy.typing import NDArray

from ovs_ros.evaluation.temperature_scaling import LEVELS


class CategoryConfidences:
    """Counts, over images, how sure the pixels of each category are.

    Args:
        categories: K; they count from 0.

    Attributes:
        pixels: (K, 256) int64, how many pixels of each category had each confidence in 1/255.
    """

    def __init__(self, categories: int) -> None:
        self.pixels: NDArray[np.int64] = np.zeros((categories, LEVELS), np.int64)

    def add(self, labels: NDArray[np.integer], confidence: NDArray[np.uint8]) -> None:
        """Count one image.

        Args:
            labels: (H, W) categories; values from K on are no category.
            confidence: (H, W) uint8 in 1/255.
        """
        named = labels < len(self.pixels)
        place = labels[named].astype(np.intp) * LEVELS + confidence[named]
        self.pixels += np.bincount(place, minlength=self.pixels.size).reshape(self.pixels.shape)

    def thresholds(self, precision: float, most_unknown: float) -> list[float | None]:
        """For each category its threshold in [0, 1]; None where it needs none.

        Args:
            precision: the wanted mean confidence of the pixels that keep their name, in [0, 1].
            most_unknown: the largest share, in [0, 1], of a category's pixels that may lose theirs.
        """
        kept = self.pixels[:, ::-1].cumsum(axis=1)[:, ::-1]  # (K, 256), if the threshold is that level
        sure = (self.pixels * np.arange(LEVELS))[:, ::-1].cumsum(axis=1)[:, ::-1] / (LEVELS - 1)
        reached = sure >= precision * kept
        allowed = kept >= np.maximum((1 - most_unknown) * kept[:, :1], 1)
        # `reached` holds from a level on, `allowed` up to one: the first reached, at most the last allowed.
        first = np.where(reached.any(axis=1), reached.argmax(axis=1), LEVELS)
        last = np.maximum(allowed.sum(axis=1) - 1, 0)
        levels = np.minimum(first, last)  # (K,)
        # Rounded down, and a pixel's level is compared with the next whole one above.
        return [math.floor(level / (LEVELS - 1) * 1e4) / 1e4 if level else None for level in levels]
