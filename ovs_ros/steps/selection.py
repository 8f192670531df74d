"""Dynamic category selection: which few categories can this image hold?

Rule `dcp`, after DCP-CLIP. S_p is the softmax over words of every patch's scaled cosines, S_i that of the
whole image's (eq. 1). Image-dominant categories are held back when patches vote: S_p (1 - S_i) (eq. 2, a
reading, for the published text lost its form). Every patch elects the category that it fits best (eq. 3),
categories above theta in S_i are elected in any case (eq. 4), and the union goes on (eq. 5). Votes are
compared in log space: where S_i is almost 1, products would underflow and patches would elect noise.

Rule `top_n`, as FGAseg and SED prune: every patch elects the N categories that it fits best, by the auxiliary
head that was trained with the model's network (selection_head.py), or by its cosines where there is none.

Both leave open what to drop where too many are elected. Here those stay for which (votes + 1) score is
highest: by the score alone, one sure patch would count as much as half an image. Negative words take part in
every softmax and win patches as categories do; what they win elects nobody.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovs_ros.encoders.features import Features
from ovs_ros.options import SegmenterOptions
from ovs_ros.steps.evidence import Evidence, fuse
from ovs_ros.steps.grid import crop
from ovs_ros.steps.selection_head import SelectionHead
from ovs_ros.vocabulary.word_embeddings import Sketch, WordEmbeddings

SCREEN_CELLS = (6, 8)
"""Into how many cells (down, across) patches are pooled to screen a vocabulary beyond the shortlist."""
SKETCH_CELLS = (3, 4)
"""The same where a sketch of the vocabulary is screened."""
SKETCH_LISTS = 6
"""How many times as long as the shortlist the list is that a vocabulary's sketch leaves for screening."""
PROBED_LISTS = 32
"""How many times as long as the shortlist the clusters of a sketch are, together, that are looked into."""


@dataclass(frozen=True, eq=False)
class Selection:
    """What a frame is decided among.

    Attributes:
        classes: (M,) ascending class indices: positions of the categories in their vocabulary.
        scores: (M,) float32 in [0, 1]: the highest probability that a patch or the whole image gave to it.
        words: indices of the word embeddings that take part: those of `classes`, then all negatives.
    """

    classes: NDArray[np.intp]
    scores: NDArray[np.float32]
    words: NDArray[np.intp] | slice


def everything(words: WordEmbeddings) -> Selection:
    """No selection: all categories, with score 1."""
    count = len(words.ids)
    return Selection(np.arange(count), np.ones(count, np.float32), slice(None))


def select(
    features: Features,
    words: WordEmbeddings,
    options: SegmenterOptions,
    evidence: Evidence | None = None,
    head: SelectionHead | None = None,
) -> Selection:
    """The categories that an image can hold, at most `options.max_categories`.

    Args:
        features: of one image.
        words: K categories and N negatives.
        options: rule, top_n, theta, max_categories and shortlist count here.
        evidence: of the examples that categories have; their patches vote by it too.
        head: votes in place of the cosines, with the rule `top_n`.
    """
    count, total = len(words.ids), len(words.embeddings)
    grid = crop(features.patch_tokens, features.valid)  # (rows, cols, D)
    patches = grid.reshape(-1, grid.shape[2])  # (n, D)
    negatives = np.arange(count, total)
    if count > options.shortlist:
        cells, sums = _pooled(grid, SCREEN_CELLS)
        parts = _parts(sums, features.class_token)
        _, sums = _pooled(sums.reshape(*cells, -1), SKETCH_CELLS)
        listed = nearest(parts, words, options.shortlist, _parts(sums, features.class_token))
        if evidence is not None:  # They are few, and their words may say little.
            listed = np.union1d(listed, evidence.places)
        embeddings = words.embeddings[np.concatenate((listed, negatives))]
    else:
        listed = np.arange(count)
        embeddings = words.embeddings
    weights = (embeddings * np.float32(features.logit_scale)).T  # (D, C)
    if head is not None and options.rule == "top_n":
        logits = head(patches) @ (embeddings * np.float32(head.scale)).T
    else:
        logits = patches @ weights  # (n, C) log S_p, but for a summand that is the same within a row
    whole = (features.class_token @ weights).astype(np.float64)
    whole = np.exp(whole - whole.max())
    if evidence is not None:
        taught = evidence.among(listed)
        whole[taught.places[taught.wordless]] = 0  # No word says whether the image holds them.
    whole /= max(whole.sum(), np.finfo(np.float64).tiny)  # (C,) S_i
    voted = logits if options.rule == "top_n" else logits + held_back(whole, np).astype(np.float32)
    if evidence is not None:
        values = crop(taught.values, features.valid).reshape(len(patches), -1)
        for each in (logits,) if voted is logits else (logits, voted):
            fuse(each, values, taught.places, taught.wordless)
    ballots = _best(voted, options.top_n) if options.rule == "top_n" else voted.argmax(axis=1)
    votes = np.bincount(ballots.ravel(), minlength=len(weights.T))[: len(listed)]
    elected = votes > 0
    if options.rule == "dcp":
        elected |= whole[: len(listed)] > options.theta
    places = np.flatnonzero(elected)  # (M,)
    scores = np.maximum(_best_probability(logits, places), whole[places].astype(np.float32))
    if len(places) > options.max_categories:
        rank = np.argsort(-(votes[places] + 1) * scores, kind="stable")
        kept = np.sort(rank[: options.max_categories])
        places, scores = places[kept], scores[kept]
    classes = listed[places]
    return Selection(classes, scores, np.concatenate((classes, negatives)))


def nearest(
    parts: NDArray[np.float32], words: WordEmbeddings, count: int, fewer: NDArray[np.float32]
) -> NDArray[np.intp]:
    """The `count` categories (ascending) that come nearest to being the best of a part of the image.

    A category counts by how little it lacks to the best category of a part, not by its cosine: else one part
    that is close to many words would fill the list. Of a vocabulary that has a sketch, only the categories
    that are near by the sketch are compared as they are.

    Args:
        parts: (p, D) unit embeddings.
        words: K categories, more than `count`.
        count: the length of the list.
        fewer: (q, D) unit embeddings that stand for the parts where they are compared with a sketch.
    """
    longer = SKETCH_LISTS * count
    if words.sketch is None or len(words.ids) <= longer:
        return np.sort(_nearest(parts, words.embeddings[: len(words.ids)], count))
    listed = _near_by_sketch(fewer, words.sketch, longer)
    return listed[np.sort(_nearest(parts, words.embeddings.take(listed, axis=0), count))]


def _near_by_sketch(parts: NDArray[np.float32], sketch: Sketch, count: int) -> NDArray[np.intp]:
    """The `count` categories (ascending) of a sketch that lack the least, out of the clusters that do."""
    places = parts @ sketch.axes  # (p, d)
    order = np.argsort(-_lacks(places, sketch.centres))
    sizes = np.diff(sketch.ends, prepend=0)
    probed = order[: np.searchsorted(np.cumsum(sizes[order]), PROBED_LISTS * count // SKETCH_LISTS) + 1]
    ends = np.cumsum(sizes[probed])
    rows = np.arange(ends[-1]) + np.repeat(sketch.ends[probed] - ends, sizes[probed])  # of their words
    nearest = _nearest(places, sketch.words.take(rows, axis=0), count)
    return np.sort(sketch.rows.take(rows.take(nearest)))


def _nearest(parts: NDArray[np.float32], words: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """The `count` words that lack the least to the best of a part, in no order."""
    return np.argpartition(-_lacks(parts, words), count)[:count]


def _lacks(parts: NDArray[np.float32], words: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n,) how much less than the best of a part (p, d) a word (n, d) has; 0 for the best, else negative."""
    products = parts @ words.T  # (p, n)
    products -= products.max(axis=1, keepdims=True)
    lacks: NDArray[np.float32] = products.max(axis=0)
    return lacks


def _pooled(grid: NDArray[np.float32], cells: tuple[int, int]) -> tuple[tuple[int, int], NDArray[np.float32]]:
    """Patches (rows, cols, D) added up in at most `cells`: how many these are, and (p, D) sums."""
    rows, cols, dim = grid.shape
    size = min(cells[0], rows), min(cells[1], cols)
    return size, pooling(rows, cols, cells) @ grid.reshape(-1, dim)


def _parts(sums: NDArray[np.float32], image: NDArray[np.float32]) -> NDArray[np.float32]:
    """The cells of pooled patches (p, D), and the whole image: (p + 1, D) unit rows."""
    parts = np.concatenate((sums, image[None]))
    parts /= np.maximum(np.linalg.norm(parts, axis=1, keepdims=True), 1e-12)
    return parts


@lru_cache(maxsize=16)
def pooling(rows: int, cols: int, cells: tuple[int, int]) -> NDArray[np.float32]:
    """The matrix (cells, rows * cols) that adds up the patches of each cell."""
    down, across = (
        (np.arange(size) * count // size == np.arange(count)[:, None]).astype(np.float32)
        for size, count in ((rows, min(cells[0], rows)), (cols, min(cells[1], cols)))
    )
    matrix = np.kron(down, across)
    matrix.setflags(write=False)
    return matrix


def _best(logits: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """The indices of the `count` highest logits of each row: (n, C) -> (n, min(count, C)), in no order."""
    if count >= logits.shape[1]:
        return np.broadcast_to(np.arange(logits.shape[1]), logits.shape)
    if count == 1:
        return logits.argmax(axis=1)[:, None]
    return np.argpartition(logits, -count, axis=1)[:, -count:]


def held_back(whole: Any, xp: Any) -> Any:
    """What equation 2 adds to every patch's log probabilities, log(1 - S_i).

    Args:
        whole: (C,) float64 S_i, an array or a tensor.
        xp: the module that computes with it, numpy or torch.

    Returns:
        (C,) float64, finite.
    """
    # The difference from 1 loses all digits where one word takes nearly everything: sum up the others.
    most = whole > 0.5
    others = xp.where(most, 0.0, whole).sum()
    return xp.log(xp.where(most, others, 1.0 - whole).clip(min=np.finfo(np.float64).tiny))


def _best_probability(logits: NDArray[np.float32], places: NDArray[np.intp]) -> NDArray[np.float32]:
    """The highest S_p of some categories: (n, C) logits -> (len(places),) float32."""
    differences = logits - logits.max(axis=1, keepdims=True)  # (n, C)
    sums = np.exp(differences).sum(axis=1, keepdims=True)  # (n, 1)
    differences -= np.log(sums)
    best: NDArray[np.float32] = np.exp(differences.max(axis=0)[places])
    return best
