"""A large vocabulary in few dimensions, to find the words near an image part quickly."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DIMENSIONS = 64
"""Of a sketch, at most."""


@dataclass(frozen=True, eq=False)
class Sketch:
    """Words on their principal axes. Arrays are read-only.

    The dot product of an embedding on the axes with a word's row is close to their cosine, but for a summand
    that is the same for all words.

    Attributes:
        axes: (D, d) float32 with orthonormal columns, the axes of the largest variance first.
        words: (K, d) float32, the words less their mean, on these axes.
    """

    axes: NDArray[np.float32]
    words: NDArray[np.float32]


def draw_sketch(embeddings: NDArray[np.float32], dimensions: int = DIMENSIONS) -> Sketch:
    """The sketch of (K, D) float32 words in at most `dimensions` dimensions: principal component analysis."""
    centred = embeddings - embeddings.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)  # ascending
    axes = np.ascontiguousarray(vectors[:, ::-1][:, :dimensions], np.float32)
    words = centred @ axes
    for array in (axes, words):
        array.setflags(write=False)
    return Sketch(axes, words)
