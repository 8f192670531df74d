"""How well label images agree with the truth."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ovs_ros.vocabulary.category import name_key

CONFUSED = 0.2
"""The share of a class's pixels from which another class that gets them counts as confused with it."""


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
        return _share(np.trace(self.counts), self.counts.sum())

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

    def confusions(self, names: Sequence[str]) -> dict[tuple[str, str], float]:
        """The pairs of a class and another one that often takes its pixels, and the share that it takes.

        Args:
            names: of the classes.

        Returns:
            keys (see `name_key`) of the name and of the other one -> a share of at least CONFUSED.
        """
        shares = self.counts[:, :-1] / np.maximum(self.counts.sum(axis=1, keepdims=True), 1)
        np.fill_diagonal(shares, 0)
        keys = [name_key(name) for name in names]
        return {(keys[i], keys[j]): float(shares[i, j]) for i, j in np.argwhere(shares >= CONFUSED)}


class SelectionRecall:
    """Counts, over many images, how often a class that is there was selected, and how many categories were.

    Args:
        classes: how many classes the truth has; they count from 0.
    """

    LEAST_SHARE = 0.001
    """Of an image's pixels: from here on a class counts for `recall`."""

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._images = self._survivors = 0
        # Pairs of an image and a class: with `LEAST_SHARE` of its pixels, and with at least one.
        self._there, self._found = np.zeros(2), np.zeros(2)

    def add(self, truth: NDArray[np.integer], selected: NDArray[np.integer]) -> None:
        """Count one image.

        Args:
            truth: integer array; values that are no class are left out.
            selected: (M,) the selected categories, classes or others, each once.
        """
        inside = truth[(truth >= 0) & (truth < self._classes)]
        pixels = np.bincount(inside.astype(np.intp), minlength=self._classes)  # (classes,)
        present = pixels >= np.array([[max(1.0, self.LEAST_SHARE * truth.size)], [1.0]])  # (2, classes)
        self._there += present.sum(axis=1)
        self._found += (present & np.isin(np.arange(self._classes), selected)).sum(axis=1)
        self._images += 1
        self._survivors += len(selected)

    @property
    def recall(self) -> float:
        """The share of classes with at least `LEAST_SHARE` of the pixels that was selected; NaN if none."""
        return _share(self._found[0], self._there[0])

    @property
    def recall_any(self) -> float:
        """The same for classes with a single pixel at least."""
        return _share(self._found[1], self._there[1])

    @property
    def mean_survivors(self) -> float:
        """How many categories were selected in an image on average; NaN without images."""
        return _share(self._survivors, self._images)


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")
