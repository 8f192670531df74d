"""What examples say of an image, on its patches: evidence that is added to the words' logits."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ovs_ros.encoders.features import Features
from ovs_ros.encoders.heads import spread
from ovs_ros.vocabulary.prototypes import Prototypes

Array = NDArray[np.float32]
_TINY = 1e-6


@dataclass(frozen=True, eq=False)
class Evidence:
    """How much more an image's patches look like t taught words than like the rest.

    Attributes:
        values: (h, w, t) float32, in units of logits.
        places: (t,) which of the words that a frame is decided among these are.
        wordless: (t,) bool, of which of them the logit counts for nothing.
        sharpness: what logits are multiplied with once evidence is added.
    """

    values: Array
    places: NDArray[np.intp]
    wordless: NDArray[np.bool_]
    sharpness: float

    def among(self, classes: NDArray[np.intp]) -> "Evidence":
        """The same for fewer words.

        Args:
            classes: ascending, the words that are left; where they lie in this array are their new places.
        """
        _, places, kept = np.intersect1d(classes, self.places, assume_unique=True, return_indices=True)
        return replace(self, values=self.values[..., kept], places=places, wordless=self.wordless[kept])

    def added(self, count: int) -> Array:
        """(h, w, count), what is added to the logits of `count` words; 0 for wordless and untaught ones."""
        added = np.zeros((*self.values.shape[:2], count), np.float32)
        added[..., self.places[~self.wordless]] = self.values[..., ~self.wordless]
        return added

    def decide_wordless(self, logits: Array) -> None:
        """Write the logits of wordless words into those of the output grid (rows, columns, M)."""
        if self.wordless.any():
            values = spread(np.ascontiguousarray(self.values[..., self.wordless]), logits.shape[:2])
            write_wordless(logits, values, self.places[self.wordless])


def evidence_of(features: Features, prototypes: Prototypes | None) -> Evidence | None:
    """The evidence for all taught categories, whose places are their class indices; None without any."""
    if prototypes is None:
        return None
    values = prototypes.evidence(tokens_of(features))
    return Evidence(values, prototypes.classes, prototypes.wordless, prototypes.sharpness)


def tokens_of(features: Features) -> Array:
    """(h, w, C) unit rows, what examples are compared by: the encoder's hidden features, else embeddings."""
    if features.hidden is None:
        return features.patch_tokens
    return features.hidden / np.maximum(np.linalg.norm(features.hidden, axis=-1, keepdims=True), _TINY)


def fuse(logits: Array, values: Array, places: NDArray[np.intp], wordless: NDArray[np.bool_]) -> None:
    """Add evidence to logits in place.

    Args:
        logits: (n, M) of words.
        values: (n, t) evidence.
        places: (t,) of the words that it is for.
        wordless: (t,) bool.
    """
    logits[:, places[~wordless]] += values[:, ~wordless]
    if wordless.any():
        write_wordless(logits, values[:, wordless], places[wordless])


def write_wordless(logits: Array, values: Array, places: NDArray[np.intp]) -> None:
    """Give wordless words (t,) the best logit of the others at each position and their evidence, in place.

    So evidence above 0 wins a position, whatever the other words are.

    Args:
        logits: (…, M).
        values: (…, t).
        places: (t,).
    """
    others = np.delete(logits, places, axis=-1)
    best = others.max(axis=-1, keepdims=True) if others.shape[-1] else np.float32(0)
    logits[..., places] = best + values
