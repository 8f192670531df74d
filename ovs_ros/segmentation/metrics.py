"""How well label images agree with the truth."""

import numpy as np
from numpy.typing import NDArray


class ConfusionMatrix:
    """Counts, over many images, which class pixels have and which one they were given.

    Args:
        classes: how many classes there are; they count from 0.

    Attributes:
        counts: (classes, classes + 1) int64, true class by given class; the last column is 'none of them'.
    """

    def __init__(self, classes: int) -> None:
        if classes < 1:
            raise ValueError(f"expected at least 1 class, got {classes}")
        self.classes = classes
        self.counts: NDArray[np.int64] = np.zeros((classes, classes + 1), np.int64)

    def add(self, truth: NDArray[np.integer], given: NDArray[np.integer]) -> None:
        """Count one image.

        Args:
            truth: integer array; values that are no class are ignored.
            given: integer array of the same shape; values that are no class are wrong wherever truth is one.

        Raises:
            ValueError: the shapes differ.
        """
        if truth.shape != given.shape:
            raise ValueError(f"expected labels of the truth's shape {truth.shape}, got {given.shape}")
        true = truth.astype(np.intp)
        counted = (true >= 0) & (true < self.classes)
        chosen = given.astype(np.intp)
        chosen = np.where((chosen >= 0) & (chosen < self.classes), chosen, self.classes)
        pairs = true[counted] * (self.classes + 1) + chosen[counted]
        self.counts += np.bincount(pairs, minlength=self.counts.size).reshape(self.counts.shape)

    @property
    def iou(self) -> NDArray[np.float64]:
        """(classes,) intersection over union, in [0, 1]; NaN for classes that the truth never has."""
        hit = np.diagonal(self.counts).astype(np.float64)
        true = self.counts.sum(axis=1)
        union = true + self.counts[:, :-1].sum(axis=0) - hit
        return np.where(true > 0, hit / np.maximum(union, 1), np.nan)

    @property
    def mean_iou(self) -> float:
        """The mean of `iou` over the classes that the truth has; NaN if it has none."""
        present = self.iou[~np.isnan(self.iou)]
        return float(present.mean()) if present.size else float("nan")

    @property
    def pixel_accuracy(self) -> float:
        """The share of counted pixels with the right class; NaN if none was counted."""
        total = self.counts.sum()
        return float(np.trace(self.counts) / total) if total else float("nan")
