"""Confidence that means something: how far it is from the truth, and the temperature that mends it.

A confidence is calibrated where, of the pixels with confidence p, a share p has the right name. Expected
calibration error (ECE) is the mean distance from that, over bins of confidence (Naeini et al. 2015). One
temperature per model, which divides the logits, brings it down without changing any pixel's best word (Guo et
al., "On Calibration of Modern Neural Networks", 2017); for vision-language models it carries over from one
set of words to another (LeVine et al., "Enabling Calibration In The Zero-Shot Inference of Large
Vision-Language Models", 2024).
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ovs_ros.encoders.embedded import HIGHEST_TEMPERATURE, LOWEST_TEMPERATURE

BINS = 15
LEVELS = 256
"""Confidences come in steps of 1/255."""

_STEPS = 49
_GOLDEN = (5**0.5 - 1) / 2


class Reliability:
    """Counts, over many images, how often pixels of each confidence have the right name.

    Attributes:
        pixels: (256,) int64, how many pixels had each confidence, in 1/255.
        right: (256,) int64, how many of them had the right name.
    """

    def __init__(self) -> None:
        self.pixels: NDArray[np.int64] = np.zeros(LEVELS, np.int64)
        self.right: NDArray[np.int64] = np.zeros(LEVELS, np.int64)

    def add(self, confidence: NDArray[np.uint8], right: NDArray[np.bool_]) -> None:
        """Count pixels.

        Args:
            confidence: uint8 of any shape, probabilities in 1/255.
            right: bool of the same shape, whether the name that they belong to is right.

        Raises:
            ValueError: the shapes differ.
        """
        if confidence.shape != right.shape:
            raise ValueError(
                f"expected one answer for each confidence, got {right.shape}, {confidence.shape}"
            )
        self.pixels += np.bincount(confidence.ravel(), minlength=LEVELS)
        self.right += np.bincount(confidence[right], minlength=LEVELS)

    def error(self, bins: int = BINS) -> float:
        """The expected calibration error over `bins` bins of equal width; NaN if nothing was counted."""
        total = self.pixels.sum()
        if not total:
            return float("nan")
        confidence = np.arange(LEVELS) / (LEVELS - 1)
        place = np.minimum((confidence * bins).astype(np.intp), bins - 1)  # (256,)
        surplus = np.bincount(place, self.pixels * confidence - self.right, minlength=bins)  # (bins,)
        return float(np.abs(surplus).sum() / total)

    @property
    def mean_confidence(self) -> float:
        """The mean confidence in [0, 1]; NaN if nothing was counted."""
        total = self.pixels.sum()
        return float(self.pixels @ np.arange(LEVELS) / (LEVELS - 1) / total) if total else float("nan")

    @property
    def accuracy(self) -> float:
        """The share of right names; NaN if nothing was counted."""
        total = self.pixels.sum()
        return float(self.right.sum() / total) if total else float("nan")


def fit_temperature(
    logits: Sequence[NDArray[np.float32]],
    right: Sequence[NDArray[np.bool_]],
    weights: Sequence[float] | None = None,
) -> float:
    """The temperature under which the best word's probability is the best forecast of its being right.

    It minimises the negative log likelihood of that forecast, -log p where the word is right and -log(1 - p)
    where it is wrong. The usual likelihood, that of the true word, does not exist where the true word was not
    selected; this one does, and it is about the number that is published. The positions of an image weigh the
    same.

    The search tries temperatures from 0.05 to 20 in even steps of their logarithm and refines the best one by
    golden section.

    Args:
        logits: for each image (n, C), before any temperature; n and C may differ from image to image.
        right: for each image (n,), whether the word of the highest logit is right.
        weights: of each image, above 0; None: all weigh the same.

    Raises:
        ValueError: there is no position at all, or one image's arrays have different lengths.
    """
    given = np.ones(len(logits)) if weights is None else np.asarray(weights, np.float64)
    every = zip(logits, right, given, strict=True)
    images = [(_Forecasts(z, r), weight) for z, r, weight in every if len(z)]
    if not images:
        raise ValueError("expected labelled positions to fit a temperature to, got none")

    def cost(log_temperature: float) -> float:
        losses, counts = zip(
            *((image.loss(np.exp(log_temperature)), count) for image, count in images), strict=True
        )
        return float(np.average(losses, weights=counts))

    grid = np.linspace(np.log(LOWEST_TEMPERATURE), np.log(HIGHEST_TEMPERATURE), _STEPS)
    best = int(np.argmin([cost(point) for point in grid]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, _STEPS - 1)]
    while high - low > 1e-3:
        step = _GOLDEN * (high - low)
        if cost(high - step) < cost(low + step):
            high = low + step
        else:
            low = high - step
    return float(np.exp((low + high) / 2))


class _Forecasts:
    """One image's positions: the logits' distances from the best one, and whether that one is right."""

    def __init__(self, logits: NDArray[np.float32], right: NDArray[np.bool_]) -> None:
        if len(logits) != len(right):
            raise ValueError(f"expected one answer for each position, got {len(right)} for {len(logits)}")
        best = logits.argmax(axis=1)[:, None]
        self._below = logits - np.take_along_axis(logits, best, axis=1)  # (n, C), at most 0
        # The best word itself is left out of the sum of its rivals.
        np.put_along_axis(self._below, best, -np.inf, axis=1)
        self._right = right

    def loss(self, temperature: float) -> float:
        """The mean of -log p where right and of -log(1 - p) where wrong."""
        rivals = np.exp(self._below / np.float32(temperature)).sum(axis=1)  # (n,), the best word has 1
        losses = np.log1p(rivals) - np.where(self._right, 0, np.log(np.maximum(rivals, 1e-30)))
        return float(losses.mean())


def model_digest(models: Path) -> str:
    """What tells one state of a model's folder from another: 16 hexadecimal digits of its weights."""
    digest = hashlib.sha256()
    for file in sorted((*models.glob("*.onnx"), *models.glob("*.npz"))):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]
