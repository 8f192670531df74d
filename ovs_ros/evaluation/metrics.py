"""How well label images agree with the truth."""

import numpy as np
from numpy.typing import NDArray


class ConfusionMatrix:
    """Count over images the true class and the given class of pixels.

    Args:
        classes: how many classes there are; they count from 0.

    Attributes:
        counts: (classes, classes + 1) int64, true class by given class; the last column is 'no class'.
    """

    def __init__(self, classes: int) -> None:
        if classes < 1:
            raise ValueError(f"expected at least 1 class, got {classes}")
        self.classes = classes
        self.counts: NDArray[np.int64] = np.zeros((classes, classes + 1), np.int64)

    def add(self, truth: NDArray[np.integer], given: NDArray[np.integer]) -> None:
        """Count one image.

        Args:
            truth: integer array; values outside the classes are ignored.
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

    @property
    def mistaken(self) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """For each class, the class its pixels were most often mistaken for, and their share.

        Returns:
            (classes,) from 0 to `classes`, the last being none of the classes; and (classes,) in [0, 1], NaN
            for classes that the truth never has.
        """
        wrong = self.counts.copy()
        np.fill_diagonal(wrong, 0)
        true = self.counts.sum(axis=1)
        share = np.where(true > 0, wrong.max(axis=1) / np.maximum(true, 1), np.nan)
        return wrong.argmax(axis=1), share


class SelectionRecall:
    """Counts, over many images, how often a category that is there was selected, and how many were.

    Args:
        classes: how many classes the truth has; they count from 0.

    Attributes:
        least_share: the share of an image's pixels from which a class counts as clearly there.
        images: how many were added.
        survivors: how many categories were selected, in all images together.
        there, found: pairs of an image and a class that has at least `least_share` of its pixels, and how
            many of them were selected.
        any_there, any_found: the same for classes with at least one pixel.
    """

    least_share = 0.001

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.images = self.survivors = 0
        self.there = self.found = self.any_there = self.any_found = 0

    def add(self, truth: NDArray[np.integer], selected: NDArray[np.integer]) -> None:
        """Count one image.

        Args:
            truth: integer array; values that are no class are left out.
            selected: (M,) the selected categories, classes or others, each once.
        """
        inside = truth[(truth >= 0) & (truth < self.classes)]
        pixels = np.bincount(inside.astype(np.intp), minlength=self.classes)  # (classes,)
        was_selected = np.isin(np.arange(self.classes), selected)
        present, clearly = pixels > 0, pixels >= max(1.0, self.least_share * truth.size)
        self.images += 1
        self.survivors += len(selected)
        self.any_there += int(present.sum())
        self.any_found += int((present & was_selected).sum())
        self.there += int(clearly.sum())
        self.found += int((clearly & was_selected).sum())

    @property
    def recall(self) -> float:
        """The share of the classes that are clearly there that was selected; NaN if none was there."""
        return self.found / self.there if self.there else float("nan")

    @property
    def recall_any(self) -> float:
        """The same for classes with a single pixel at least."""
        return self.any_found / self.any_there if self.any_there else float("nan")

    @property
    def mean_survivors(self) -> float:
        """How many categories were selected in an image on average; NaN without images."""
        return self.survivors / self.images if self.images else float("nan")
