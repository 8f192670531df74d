"""Tag validation: does what a region shows bear its name out?

After DCP-CLIP, equation 17. A region's feature r is the mean of its patches' embeddings. A region whose name
was in the training set keeps it. Another one keeps it if the name is among the k names of the whole
vocabulary whose cosines with r are the highest, and gets the best of them otherwise. The safer twin for
robots makes such a region unknown instead.

The paper tells neither k nor what a region is. Readings: `validation_top_k` is an option, and a region is
each connected part of a category. Ours is that only the largest regions of a
frame are checked, none below a patch's area, for the mean of less says little; and that negative words count
among the names: a region that one of them fits best becomes unknown.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ovs_ros.encoders.features import Features
from ovs_ros.options import SegmenterOptions
from ovs_ros.steps.labels import look_up
from ovs_ros.steps.regions import connected_regions
from ovs_ros.steps.selection import Selection
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings

MOST_REGIONS = 64
"""How many regions of a frame, the largest ones, are checked at most; their numbers fit into 8 bits."""


@dataclass(frozen=True, eq=False)
class _Regions:
    """R regions that are checked, the largest first.

    Attributes:
        number: (rows, cols) int, the region of each node; R where none is checked.
        column: (R,) the column of the logits that won each.
    """

    number: NDArray[np.intp]
    column: NDArray[np.integer]


def validate_tags(
    columns: NDArray[np.integer],
    logits: NDArray[np.float32],
    features: Features,
    selection: Selection,
    words: WordEmbeddings,
    options: SegmenterOptions,
) -> tuple[NDArray[np.integer], Selection]:
    """Relabel or reject the regions whose features do not bear their name out.

    Args:
        columns: (H, W) as `decode` gives them: the M selected categories count from 0, N negatives from M.
        logits: (rows, cols, M + N) float32, what they were decoded from.
        features: of the image.
        selection: what the columns mean.
        words: the vocabulary that was selected from.
        options: validation ('relabel' or 'reject'), validation_top_k and validate_seen count.

    Returns:
        The columns, and what they mean now: the selection with the names that came in by relabelling. After
        these and the negatives comes the column of what is rejected. Both are what was given where no region
        changes.
    """
    regions = _regions(logits.argmax(axis=2), selection, words, features, options)
    if not len(regions.column):
        return columns, selection
    means = _mean_features(regions, features)  # (R, D)
    # With all words, whatever their number: for 64 regions and 20,000 words it takes milliseconds.
    cosines = means @ words.embeddings.T  # (R, K + N)
    own = cosines[np.arange(len(means)), selection.classes[regions.column]]  # (R,)
    better = (cosines > own[:, None]).sum(axis=1)  # (R,)
    failed = np.flatnonzero(better >= options.validation_top_k)
    if not len(failed):
        return columns, selection
    best = cosines[failed].argmax(axis=1)
    relabelled = (best < len(words.ids)) & (options.validation == "relabel")
    scores = _best_probability(cosines[failed[relabelled]] * np.float32(features.logit_scale))
    grown, codes = _grown(selection, best[relabelled], scores, words)
    unknown = len(grown.classes) + len(words.vocabulary.negatives)
    new = np.full(len(failed), unknown)
    new[relabelled] = np.searchsorted(grown.classes, best[relabelled])
    painted = _painted(regions, failed, features, columns.shape)
    return _repaint(columns, painted, regions.column[failed], new, codes, unknown), grown


def _regions(
    best: NDArray[np.intp],
    selection: Selection,
    words: WordEmbeddings,
    features: Features,
    options: SegmenterOptions,
) -> _Regions:
    """The largest regions whose names are to be checked; `best` (rows, cols) are the winners at the nodes."""
    number, count = connected_regions(best)
    column = np.zeros(count, np.intp)
    column[number] = best
    sizes = np.bincount(number.ravel(), minlength=count)
    of_patch = features.grid[0] * features.grid[1] / features.patch_tokens[..., 0].size
    checked = (sizes >= of_patch) & (column < len(selection.classes))
    if not options.validate_seen:
        checked[checked] = ~words.seen[selection.classes[column[checked]]]
    chosen = np.flatnonzero(checked)
    chosen = chosen[np.argsort(-sizes[chosen], kind="stable")[:MOST_REGIONS]]
    renumbered = np.full(count, len(chosen))
    renumbered[chosen] = np.arange(len(chosen))
    return _Regions(renumbered[number], column[chosen])


def _mean_features(regions: _Regions, features: Features) -> NDArray[np.float32]:
    """(R, D) unit rows, the mean of the patches under each region's nodes."""
    height, width, dim = features.patch_tokens.shape
    rows, cols = regions.number.shape
    down = np.arange(rows) * height // features.grid[0]
    across = np.arange(cols) * width // features.grid[1]
    cells = regions.number * (height * width) + down[:, None] * width + across
    count = len(regions.column)
    areas = np.bincount(cells.ravel(), minlength=(count + 1) * height * width)[: count * height * width]
    sums = areas.reshape(count, -1).astype(np.float32) @ features.patch_tokens.reshape(-1, dim)  # (R, D)
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    means: NDArray[np.float32] = sums / np.maximum(norms, np.finfo(np.float32).tiny)
    return means


def _best_probability(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """The softmax of each row's highest: (n, K + N) -> (n,)."""
    highest = logits.max(axis=1, keepdims=True)
    probability: NDArray[np.float32] = 1 / np.exp(logits - highest).sum(axis=1)
    return probability


def _grown(
    selection: Selection, named: NDArray[np.intp], scores: NDArray[np.float32], words: WordEmbeddings
) -> tuple[Selection, NDArray[np.intp]]:
    """The selection with more categories, each of which may be named and scored several times.

    Also (M + N,): which column each old one, negatives included, is now.
    """
    negatives = np.arange(len(words.ids), len(words.embeddings))
    columns = np.union1d(selection.classes, named)
    grown = np.zeros(len(columns), np.float32)
    np.maximum.at(grown, np.searchsorted(columns, named), scores)
    places = np.searchsorted(columns, selection.classes)
    grown[places] = selection.scores
    codes = np.concatenate((places, np.arange(len(negatives)) + len(columns)))
    return Selection(columns, grown, np.concatenate((columns, negatives))), codes


def _painted(
    regions: _Regions, failed: NDArray[np.intp], features: Features, size: tuple[int, ...]
) -> NDArray[np.uint8]:
    """(H, W) where each pixel lies in or beside a failed region, that one's place in `failed` from 1, else 0.

    Beside: pixels between two nodes may have a region's name although the nearest node is outside.
    """
    table = np.zeros(len(regions.column) + 1, np.uint8)
    table[failed] = np.arange(1, len(failed) + 1)
    inside = table[regions.number]  # (rows, cols)
    painted = np.where(inside, inside, cv2.dilate(inside, np.ones((3, 3), np.uint8)))
    down, across = (
        np.minimum(
            ((np.arange(length) + 0.5) * (nodes * valid / length)).astype(np.intp), painted.shape[axis] - 1
        )
        for axis, (length, nodes, valid) in enumerate(zip(size, features.grid, features.valid, strict=True))
    )
    return painted.take(across, axis=1).take(down, axis=0)


def _repaint(
    columns: NDArray[np.integer],
    painted: NDArray[np.uint8],
    old: NDArray[np.integer],
    new: NDArray[np.integer],
    codes: NDArray[np.intp],
    unknown: int,
) -> NDArray[np.integer]:
    """Give pixels of column `old[i]` painted i + 1 the column `new[i]`, and the others their code."""
    dtype = np.uint8 if unknown < 256 else np.uint16 if unknown < 65536 else np.int32
    before = np.full(256, len(codes), columns.dtype)  # No pixel has this column: none changes unless painted.
    before[1 : len(old) + 1] = old
    after = np.zeros(256, dtype)
    after[1 : len(new) + 1] = new
    repainted = look_up(codes.astype(dtype), columns)
    np.copyto(repainted, look_up(after, painted), where=look_up(before, painted) == columns)
    return repainted
