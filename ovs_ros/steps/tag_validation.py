"""Tag validation: does the mean feature of a region fit the region's name?

After DCP-CLIP, equation 17. A region's feature r is the mean of its patches' embeddings. A region whose name
was in the training set keeps it. Another one keeps it if the name is among the k names of the whole
vocabulary whose cosines with r are the highest, and gets the best of them otherwise. The safer twin for
robots makes such a region unknown instead.

The paper tells neither k nor what a region is. Readings: `validation_top_k` is an option, and a region is
each connected part of a category. Ours is that only the largest regions of a frame are checked, none below a
patch's area, for the mean of less says little; and that negative words count among the names: a region that
one of them fits best becomes unknown.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from ovs_ros.encoders.features import Features
from ovs_ros.options import SegmenterOptions
from ovs_ros.steps.labels import look_up
from ovs_ros.steps.selection import Selection
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings

MOST_REGIONS = 64
"""How many regions of a frame, the largest ones, are checked at most; their numbers fit into 8 bits."""
_TINY = np.finfo(np.float32).tiny


def validate_tags(
    indices: NDArray[np.integer],
    logits: NDArray[np.float32],
    features: Features,
    selection: Selection,
    words: WordEmbeddings,
    options: SegmenterOptions,
) -> tuple[NDArray[np.integer], Selection]:
    """Relabel or reject the regions whose features do not fit their name.

    Args:
        indices: (H, W) as `decode` gives them: the M selected categories count from 0, N negatives from M.
        logits: (rows, cols, M + N) float32, what they were decoded from.
        features: of the image.
        selection: what the indices mean.
        words: the vocabulary that was selected from.
        options: validation ('relabel' or 'reject'), validation_top_k and validate_seen count.

    Returns:
        The indices, and what they mean now: the selection with the names that came in by relabelling. After
        these and the negatives comes the index of what is rejected. Both are what was given where no region
        changes.
    """
    regions, names = _regions(logits.argmax(axis=2), selection, words, features, options)
    if not len(names):
        return indices, selection
    # With all words, whatever their number: for 64 regions and 20,000 words it takes milliseconds.
    cosines = _mean_features(regions, len(names), features) @ words.embeddings.T  # (R, K + N)
    own = cosines[np.arange(len(names)), selection.classes[names]]  # (R,)
    better = (cosines > own[:, None]).sum(axis=1)  # (R,)
    failed = np.flatnonzero(better >= options.validation_top_k)
    if not len(failed):
        return indices, selection
    best = cosines[failed].argmax(axis=1)
    relabelled = (best < len(words.ids)) & (options.validation == "relabel")
    found = best[relabelled]
    sure = cosines[failed[relabelled]] * np.float32(features.logit_scale)  # (n, K + N)
    probability = 1 / np.exp(sure - sure.max(axis=1, keepdims=True)).sum(axis=1)  # softmax of each row's best
    # The selection grows by the names that were found, each perhaps several times.
    classes = np.union1d(selection.classes, found)
    scores = np.zeros(len(classes), np.float32)
    np.maximum.at(scores, np.searchsorted(classes, found), probability)
    kept = np.searchsorted(classes, selection.classes)
    scores[kept] = selection.scores
    negatives = np.arange(len(words.ids), len(words.embeddings))
    unknown = len(classes) + len(negatives)
    moved = np.concatenate((kept, np.arange(len(classes), unknown)))  # (M + N,) the new index of each old one
    new = np.full(len(failed), unknown)
    new[relabelled] = np.searchsorted(classes, found)
    painted = _painted(regions, failed, features, indices.shape)
    changed = _repainted(indices, painted, names[failed], new, moved, unknown)
    return changed, Selection(classes, scores, np.concatenate((classes, negatives)))


def _regions(
    best: NDArray[np.intp],
    selection: Selection,
    words: WordEmbeddings,
    features: Features,
    options: SegmenterOptions,
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The R regions to check, the largest first, of the winners at the nodes, `best` (rows, cols).

    Returns (rows, cols) the region of each node, R where none is checked, and (R,) the winner in each.
    """
    number, count = connected_regions(best)
    index = np.zeros(count, np.intp)
    index[number] = best
    sizes = np.bincount(number.ravel(), minlength=count)
    of_patch = features.grid[0] * features.grid[1] / features.patch_tokens[..., 0].size
    checked = (sizes >= of_patch) & (index < len(selection.classes))
    if not options.validate_seen:
        checked[checked] = ~words.seen[selection.classes[index[checked]]]
    chosen = np.flatnonzero(checked)
    chosen = chosen[np.argsort(-sizes[chosen], kind="stable")[:MOST_REGIONS]]
    renumbered = np.full(count, len(chosen))
    renumbered[chosen] = np.arange(len(chosen))
    return renumbered[number], index[chosen]


def _mean_features(regions: NDArray[np.intp], count: int, features: Features) -> NDArray[np.float32]:
    """(count, D) unit rows, the mean of the patches under each region's nodes."""
    height, width, dim = features.patch_tokens.shape
    rows, cols = regions.shape
    down = np.arange(rows) * height // features.grid[0]
    across = np.arange(cols) * width // features.grid[1]
    cells = regions * (height * width) + down[:, None] * width + across
    areas = np.bincount(cells.ravel(), minlength=(count + 1) * height * width)[: count * height * width]
    sums = areas.reshape(count, -1).astype(np.float32) @ features.patch_tokens.reshape(-1, dim)  # (R, D)
    means: NDArray[np.float32] = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), _TINY)
    return means


def _painted(
    regions: NDArray[np.intp], failed: NDArray[np.intp], features: Features, size: tuple[int, ...]
) -> NDArray[np.uint8]:
    """(H, W) where each pixel lies in or beside a failed region, that one's place in `failed` from 1, else 0.

    Beside: pixels between two nodes may have a region's name although the nearest node is outside.
    """
    table = np.zeros(MOST_REGIONS + 1, np.uint8)
    table[failed] = np.arange(1, len(failed) + 1)
    inside = table[regions]  # (rows, cols)
    painted = np.where(inside, inside, cv2.dilate(inside, np.ones((3, 3), np.uint8)))
    down, across = (
        np.minimum(((np.arange(length) + 0.5) * (nodes * valid / length)).astype(np.intp), last - 1)
        for length, nodes, valid, last in zip(size, features.grid, features.valid, inside.shape, strict=True)
    )
    return painted.take(across, axis=1).take(down, axis=0)


def _repainted(
    indices: NDArray[np.integer],
    painted: NDArray[np.uint8],
    old: NDArray[np.integer],
    new: NDArray[np.integer],
    moved: NDArray[np.intp],
    unknown: int,
) -> NDArray[np.integer]:
    """Pixels of index `old[i]` painted i + 1 get the index `new[i]`; the others are renumbered by `moved`."""
    dtype = np.uint8 if unknown < 256 else np.uint16 if unknown < 65536 else np.int32
    before = np.full(256, len(moved), indices.dtype)  # No pixel has this index: none changes unless painted.
    before[1 : len(old) + 1] = old
    after = np.zeros(256, dtype)
    after[1 : len(new) + 1] = new
    repainted = look_up(moved.astype(dtype), indices)
    np.copyto(repainted, look_up(after, painted), where=look_up(before, painted) == indices)
    return repainted


def connected_regions(labels: NDArray[np.integer]) -> tuple[NDArray[np.int32], int]:
    """Number the regions of equal labels whose nodes are connected by a side.

    OpenCV finds components of a binary image. So the nodes are laid out with a gap between each two, a gap is
    closed where both its neighbours have one label, and the components of that are the regions.

    Args:
        labels: (rows, cols) integers, at least one node.

    Returns:
        (rows, cols) int32, the region of each node, counted from 0; and how many regions there are.
    """
    rows, cols = labels.shape
    laid_out = np.zeros((2 * rows - 1, 2 * cols - 1), np.uint8)
    laid_out[::2, ::2] = 1
    laid_out[1::2, ::2] = labels[1:] == labels[:-1]
    laid_out[::2, 1::2] = labels[:, 1:] == labels[:, :-1]
    count, components = cv2.connectedComponents(laid_out, connectivity=4, ltype=cv2.CV_32S)
    return components[::2, ::2] - 1, count - 1  # Component 0 is what lies between the nodes.
