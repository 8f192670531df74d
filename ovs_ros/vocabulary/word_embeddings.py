"""A vocabulary together with the embeddings of its words: what the segmenter works with."""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ovs_ros.vocabulary.prototypes import Prototypes
from ovs_ros.vocabulary.vocabulary import Vocabulary, name_key

DIMENSIONS = 64
"""Of a sketch, at most."""
SKETCHED_FROM = 2048
"""How many categories a vocabulary needs for a sketch; selection compares fewer ones as they are."""
_CLUSTERS = 4
"""How many clusters a sketch has, times the square root of the number of words."""
_WORDS_A_CLUSTER, _ROUNDS = 8, 5
"""How many words a cluster, and how often, are looked at to find the clusters' centres."""
_AT_ONCE = 4096
"""How many words are compared with all centres at a time, to bound the memory."""


@dataclass(frozen=True, eq=False)
class Sketch:
    """Words on their principal axes, in clusters of words that are near each other. Arrays are read-only.

    The dot product of an embedding on the axes with a word's row is close to their cosine, but for a summand
    that is the same for all words.

    Attributes:
        axes: (D, d) float32 with orthonormal columns, the axes of the largest variance first.
        words: (K, d) float32, the words less their mean, on these axes, cluster by cluster.
        rows: (K,) which category each of them is.
        centres: (c, d) float32, the mean of each cluster.
        ends: (c,) where each cluster ends in `words`; it begins where the one before ends.
    """

    axes: NDArray[np.float32]
    words: NDArray[np.float32]
    rows: NDArray[np.intp]
    centres: NDArray[np.float32]
    ends: NDArray[np.intp]


def draw_sketch(embeddings: NDArray[np.float32], dimensions: int = DIMENSIONS) -> Sketch:
    """The sketch of (K, D) float32 words: at most `dimensions` principal axes, and about 4 sqrt(K) clusters.

    It is searched as the inverted file of Sivic and Zisserman ("Video Google", ICCV 2003): only the clusters
    are read whose centres are near.
    """
    centred = embeddings - embeddings.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)  # ascending
    axes = np.ascontiguousarray(vectors[:, ::-1][:, :dimensions], np.float32)
    words = centred @ axes
    centres = _centres(words, int(_CLUSTERS * math.sqrt(len(words))))
    cluster = _nearest(words, centres)
    rows = np.argsort(cluster, kind="stable")
    ends = np.cumsum(np.bincount(cluster, minlength=len(centres)))
    sketch = Sketch(axes, words[rows], rows, centres, ends)
    for array in (sketch.axes, sketch.words, sketch.rows, sketch.centres, sketch.ends):
        array.setflags(write=False)
    return sketch


def _centres(words: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """`count` centres of clusters (count, d): Lloyd's k-means over a part of the words."""
    random = np.random.default_rng(0)
    part = random.permutation(len(words))[: _WORDS_A_CLUSTER * count]
    sample = words[part]
    centres = sample[:count].copy()
    for _ in range(_ROUNDS):
        cluster = _nearest(sample, centres)
        order = np.argsort(cluster, kind="stable")
        found, starts, sizes = np.unique(cluster[order], return_index=True, return_counts=True)
        centres[found] = np.add.reduceat(sample[order], starts, axis=0) / sizes[:, None]
    return centres.astype(np.float32)


def _nearest(words: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.intp]:
    """(n,) the centre (c, d) that is nearest to each word (n, d)."""
    half = np.einsum("cd,cd->c", centres, centres) / np.float32(2)
    parts = [
        (words[start : start + _AT_ONCE] @ centres.T - half).argmax(axis=1)
        for start in range(0, len(words), _AT_ONCE)
    ]
    return np.concatenate(parts)


@dataclass(frozen=True, eq=False)
class WordEmbeddings:
    """One version of a vocabulary with a unit embedding for each of its words. All arrays are read-only.

    Attributes:
        vocabulary: the words: K categories and, with the generic ones, N negative words.
        embeddings: (K + N, D) float32, C-contiguous, unit rows: the categories in order, then the negatives.
        seen_names: keys (see `name_key`) of names that the model was trained with pixel labels for.
        prompts: (K + N, P, D) float16 unit rows, each word's prompts apart, for models whose decoder wants
            them; None for all others. Not copied.
        generic: the generic negative words, after those of the vocabulary.
        prototypes: what the categories' examples teach; None where there are no examples.
        ids: (K,) uint16, the label of each category.
        thresholds: (K,) float32 in [0, 1], NaN where the segmenter's default counts.
        seen: (K,) bool, which categories have a name out of `seen_names`, or examples.
        sketch: the categories in few dimensions, for selection; None for vocabularies below SKETCHED_FROM.

    Raises:
        ValueError: the embeddings are not (K + N, D), not finite, or not of unit L2 norm, or the prompts are
            not (K + N, P, D) float16.
    """

    vocabulary: Vocabulary
    embeddings: NDArray[np.float32]
    seen_names: frozenset[str] = frozenset()
    prompts: NDArray[np.float16] | None = None
    generic: tuple[str, ...] = ()
    prototypes: Prototypes | None = None
    ids: NDArray[np.uint16] = field(init=False)
    thresholds: NDArray[np.float32] = field(init=False)
    seen: NDArray[np.bool_] = field(init=False)
    sketch: Sketch | None = field(init=False)

    def __post_init__(self) -> None:
        embeddings = np.array(self.embeddings, dtype=np.float32, order="C")
        rows = len(self.vocabulary) + len(self.negatives)
        if embeddings.ndim != 2 or embeddings.shape[0] != rows or embeddings.shape[1] == 0:
            raise ValueError(
                f"expected embeddings of shape ({rows}, D), one row for each category and negative word, "
                f"got {embeddings.shape}"
            )
        norms = np.sqrt(np.einsum("kd,kd->k", embeddings, embeddings))  # (K + N,)
        if not np.allclose(norms, 1, atol=1e-3):
            raise ValueError(
                f"expected embeddings of unit L2 norm, got norms from {norms.min()} to {norms.max()}; "
                "normalise them"
            )
        if self.prompts is not None:
            object.__setattr__(self, "prompts", _checked_prompts(self.prompts, embeddings))
        given = [c.threshold for c in self.vocabulary.categories]
        thresholds = np.array([np.nan if t is None else t for t in given], dtype=np.float32)  # (K,)
        names = self.seen_names
        seen = np.array([name_key(c.name) in names or bool(c.examples) for c in self.vocabulary.categories])
        for name, array in (("embeddings", embeddings), ("thresholds", thresholds), ("seen", seen)):
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        object.__setattr__(self, "ids", self.vocabulary.ids)
        count = len(self.vocabulary)
        sketch = draw_sketch(embeddings[:count]) if count >= SKETCHED_FROM else None
        object.__setattr__(self, "sketch", sketch)

    @property
    def negatives(self) -> tuple[str, ...]:
        """The N words that compete for pixels and are never published."""
        return (*self.vocabulary.negatives, *self.generic)


def _checked_prompts(prompts: NDArray[np.float16], embeddings: NDArray[np.float32]) -> NDArray[np.float16]:
    """A read-only view of the prompts' embeddings."""
    rows, dim = embeddings.shape
    fits = prompts.ndim == 3 and prompts.shape[1] > 0 and prompts.shape[::2] == (rows, dim)
    if not fits or prompts.dtype != np.float16:
        raise ValueError(
            f"expected prompts of shape ({rows}, P, {dim}) and dtype float16, got {prompts.shape} and "
            f"{prompts.dtype}"
        )
    view = prompts.view()
    view.setflags(write=False)
    return view
