"""What examples taught: linear scores of an image encoder's features, beside the words' logits."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

MOST = 15.0
"""Log likelihood ratios end here, on both sides: these Gaussians are surer than they should be."""


@dataclass(frozen=True, eq=False)
class Prototypes:
    """P prototypes of T taught categories. Arrays are read-only.

    A prototype m scores a feature x by the log likelihood ratio of two Gaussians of one covariance S, around
    m and around the mean m0 of all that the examples' images show: (x - (m + m0) / 2) S^-1 (m - m0). A
    category's evidence is the best score of its prototypes, less what its negative prototypes score above 0.

    Attributes:
        weights: (C, P), S^-1 (m - m0): first those of the categories in order, then negative ones.
        biases: (P,).
        starts: (T,) where each category's prototypes start.
        classes: (T,) ascending class indices of the taught categories.
        negative_starts: (N,) where the negative prototypes of each category start that has some.
        negative_of: (N,) which of the T categories that is.
        wordless: (T,) bool: examples alone decide about it, its name does not.
        weight: what evidence is multiplied with before it is added to a word's logit.
        sharpness: what logits are multiplied with after that.
        floor: the lowest evidence of a category whose name counts too, before it is multiplied.
    """

    weights: Array
    biases: Array
    starts: NDArray[np.intp]
    classes: NDArray[np.intp]
    negative_starts: NDArray[np.intp]
    negative_of: NDArray[np.intp]
    wordless: NDArray[np.bool_]
    weight: float = 1.0
    sharpness: float = 1.0
    floor: float = -MOST

    def __post_init__(self) -> None:
        for array in (self.weights, self.biases, self.starts, self.classes, self.wordless):
            array.setflags(write=False)

    def evidence(self, tokens: Array) -> Array:
        """How much more the features look like each taught category than like the rest.

        Args:
            tokens: (…, C) as `tokens_of` gives them.

        Returns:
            (…, T) float32, what is added to the logits of the categories' words.
        """
        scores = tokens.reshape(-1, len(self.weights)) @ self.weights + self.biases  # (n, P)
        first = self.negative_starts[0] if len(self.negative_starts) else scores.shape[1]
        evidence = np.maximum.reduceat(scores[:, :first], self.starts, axis=1)  # (n, T)
        if len(self.negative_starts):
            against = np.maximum.reduceat(scores[:, first:], self.negative_starts - first, axis=1)  # (n, N)
            evidence[:, self.negative_of] -= np.maximum(against, 0)
        worded, alone = ~self.wordless, self.wordless
        if alone.any():  # They compete by these scores alone: keep their differences, however low all are.
            best = evidence[:, alone].max(axis=1, keepdims=True)
            lacks = np.maximum(evidence[:, alone] - best, -MOST)
            evidence[:, alone] = lacks + np.clip(best, -MOST, MOST)
        evidence[:, worded] = np.clip(evidence[:, worded], self.floor, MOST)
        evidence *= np.float32(self.weight)
        return evidence.reshape(*tokens.shape[:-1], -1)
