"""From logits on a coarse grid to one word for every pixel.

The result is that of bilinear upsampling (pixel centres, as `align_corners=False`) and argmax, at a fraction
of the cost. Between four nodes the upsampled logits are convex combinations of theirs. So where one word wins
at all four, it wins everywhere between them. Only in the other cells are logits interpolated, and there only
those of words that can win: a word that another one equals or exceeds at all four nodes cannot.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ovs_ros.encoders.features import Features

_CHUNK = 1 << 22
"""How many corner logits are gathered at a time, to bound the memory that huge vocabularies take."""
_PIXELS = 1 << 16
"""How many pixels are interpolated at a time, so that their values stay in the processor's cache."""


Indices = NDArray[np.intp]


def decode(
    logits: NDArray[np.float32], features: Features, size: tuple[int, int]
) -> tuple[NDArray[np.integer], NDArray[np.uint8]]:
    """The best word of every pixel, and its probability.

    Args:
        logits: (rows, cols, C) float32, as `align` gives them, for the nodes that the image covers.
        features: what the logits were made from: its fine grid and valid say where the nodes lie.
        size: (H, W) of the image.

    Returns:
        (H, W) index of the highest upsampled logit; uint8 for C up to 255, uint16 up to 65535, else int32.
        (H, W) uint8 the probability of that word in 1/255, upsampled from its softmax at the nodes.
    """
    rows, cols, words = logits.shape
    down = lay_axis(rows, features.grid[0] * features.valid[0], size[0])
    across = lay_axis(cols, features.grid[1] * features.valid[1], size[1])
    nodes = logits.reshape(-1, words)
    best = nodes.argmax(axis=1)  # (rows * cols,)
    highest = nodes.reshape(-1).take(best + np.arange(len(best)) * words)  # (rows * cols,)
    partition = _log_partition(nodes, highest)  # (rows * cols,)
    best = best.astype(index_type(words)).reshape(rows, cols)
    indices = best.take(across.low[across.cell], axis=1).take(down.low[down.cell], axis=0)
    confidence = upsample(np.exp(highest - partition).reshape(rows, cols), down, across)
    for row, col, around, contests in _mixed_cells(best, nodes, down, across):
        corners = around.take(contests.cells, axis=1)  # (4, P)
        values = nodes.reshape(-1).take(corners * words + contests.places)  # (4, P)
        shares = np.exp(values - partition.take(corners)) * np.float32(255)
        _decode_cells(row, col, contests, values, shares, down, across, indices, confidence)
    return indices, confidence


def index_type(count: int) -> type[np.integer]:
    """The dtype of indices of so many words, and one number more."""
    return np.uint8 if count < 256 else np.uint16 if count < 65536 else np.int32


class Axis(NamedTuple):
    """Where the pixels of one image axis lie between the nodes of a grid axis. Arrays are read-only.

    n nodes have n + 1 cells: one between each two neighbours, and one beyond each end.

    Attributes:
        low, high: (n + 1,) the nodes before and after each cell; beyond an end both are the last node.
        cell: (S,) the cell of each pixel, ascending.
        weight: (S,) float32, how far each pixel lies from `low` towards `high`, 0 to 1.
        span: (longest, n + 1) the pixels of each cell; short spans repeat their last pixel.
        empty: (n + 1,) bool, no pixel lies in it.
        scale: pixels from one node to the next.
    """

    low: NDArray[np.intp]
    high: NDArray[np.intp]
    cell: NDArray[np.intp]
    weight: NDArray[np.float32]
    span: NDArray[np.intp]
    empty: NDArray[np.bool_]
    scale: float


@lru_cache(maxsize=32)
def lay_axis(nodes: int, covered: float, size: int) -> Axis:
    """The pixels 0 to size - 1 share the first `covered` (a fractional number) of the nodes."""
    position = (np.arange(size) + 0.5) * (covered / size) + 0.5  # of pixel centres, in cells
    cell = np.minimum(position.astype(np.intp), nodes)
    cells = np.arange(nodes + 1)
    starts, ends = np.searchsorted(cell, cells), np.searchsorted(cell, cells, side="right")
    longest = int((ends - starts).max())
    axis = Axis(
        low=np.maximum(cells - 1, 0),
        high=np.minimum(cells, nodes - 1),
        cell=cell,
        weight=np.minimum(position - cell, 1).astype(np.float32),
        span=np.clip(np.arange(longest)[:, None] + starts, 0, np.maximum(ends - 1, 0)),
        empty=starts == ends,
        scale=size / covered,
    )
    for array in axis[:-1]:
        array.setflags(write=False)
    return axis


def _log_partition(nodes: NDArray[np.float32], highest: NDArray[np.float32]) -> NDArray[np.float32]:
    """log sum exp of every row of (n, C), given its maximum (n,)."""
    step = max(1, _CHUNK // nodes.shape[1])
    sums = np.empty(len(nodes), np.float32)
    ones = np.ones(nodes.shape[1], np.float32)
    for start in range(0, len(nodes), step):
        part = slice(start, start + step)
        differences = nodes[part] - highest[part, None]
        # A product: NumPy is slow in adding up many short rows.
        np.matmul(np.exp(differences, out=differences), ones, out=sums[part])
    log_sums: NDArray[np.float32] = np.log(sums, out=sums)
    return log_sums + highest


def upsample(probability: NDArray[np.float32], down: Axis, across: Axis) -> NDArray[np.uint8]:
    """Bilinear probabilities (H, W) in 1/255, rounded, of probabilities at the nodes (rows, cols)."""
    # OpenCV lays pixels over nodes as `lay_axis` does, up to the end of the last node: past the image's end.
    wide = cv2.resize(probability, None, fx=across.scale, fy=down.scale, interpolation=cv2.INTER_LINEAR)
    if wide.shape == probability.shape:  # Then it has copied them, whatever the factors.
        wide = _interpolate(_interpolate(probability, down).T, across).T
    return cv2.convertScaleAbs(wide[: len(down.cell), : len(across.cell)], alpha=255)


def _interpolate(grid: NDArray[np.float32], axis: Axis) -> NDArray[np.float32]:
    """(n, k) along its first axis: (S, k)."""
    low = grid.take(axis.low, axis=0)  # (n + 1, k)
    rise = grid.take(axis.high, axis=0) - low
    return rise.take(axis.cell, axis=0) * axis.weight[:, None] + low.take(axis.cell, axis=0)


class Contests(NamedTuple):
    """Which words can win pixels in which of g cells: P pairs.

    Cells stand in the order of how many words can win there, most first. First come the first words of all
    cells, then the second words of all cells that have one, and so on: so the n-th words of those cells that
    have so many are one piece, and belong to the first cells.

    Attributes:
        cells: (P,) the cell of each pair.
        places: (P,) where its word stands among the C words that were compared.
        counts: how many cells have a first word, a second word, and so on.
    """

    cells: NDArray[np.intp]
    places: NDArray[np.intp]
    counts: list[int]


def find_contests(
    corners: NDArray[np.float32],
    winners: NDArray[np.integer],
    of_winners: NDArray[np.float32],
    words: Indices,
) -> Contests:
    """The words that can win in cells: those that no winner equals or exceeds at all four corners.

    Args:
        corners: (4, g, C) logits of C words at the corners of g cells.
        winners: (4, g) the index of the best of all words at each corner.
        of_winners: (4, 4, g) of each winner the logits at each corner.
        words: (C,) the indices of the C words.
    """
    count, all_cells = len(words), np.arange(corners.shape[1])
    # The winner whose lowest logit is highest beats nearly all: the others see only what it leaves.
    strongest = of_winners.min(axis=1).argmax(axis=0)  # (g,)
    strong = of_winners[strongest, :, all_cells]  # (g, 4)
    able = corners[0] > strong[:, :1]  # (g, C)
    for corner in range(1, 4):
        able |= corners[corner] > strong[:, corner, None]
    able |= winners[strongest, all_cells][:, None] == words
    pairs = np.flatnonzero(able)
    cell = pairs // count
    place = pairs - cell * count
    beaten = of_winners.take(cell, axis=2) >= corners.reshape(4, -1).take(pairs, axis=1)  # (4, 4, P)
    beaten = beaten[:, 0] & beaten[:, 1] & beaten[:, 2] & beaten[:, 3]
    beaten &= winners.take(cell, axis=1) != words.take(place)
    left = np.flatnonzero(~(beaten[0] | beaten[1] | beaten[2] | beaten[3]))
    cell, place = cell[left], place[left]  # (P,), cells ascend
    numbers = np.bincount(cell, minlength=len(all_cells))  # (g,)
    rank = np.arange(len(cell)) - (np.cumsum(numbers) - numbers)[cell]  # the n-th word of its cell, from 0
    counts = np.bincount(rank)
    position = np.empty_like(all_cells)
    position[np.argsort(-numbers, kind="stable")] = all_cells
    order = np.empty_like(cell)
    order[(np.cumsum(counts) - counts)[rank] + position[cell]] = np.arange(len(cell))
    return Contests(cell[order], place[order], counts.tolist())


def _mixed_cells(
    best: NDArray[np.integer], nodes: NDArray[np.float32], down: Axis, across: Axis
) -> Iterator[tuple[Indices, Indices, Indices, Contests]]:
    """The cells whose corners disagree, some at a time, and which words can win there.

    Of g cells: (g,) their rows, (g,) their columns, (4, g) the nodes at their corners, and the contests.
    """
    rows, cols = meeting_cells(best, down, across)  # (g,) each
    count = nodes.shape[1]
    words = np.arange(count)
    pixels = len(down.span) * len(across.span)
    step = max(1, min(_CHUNK // (4 * count), _PIXELS // pixels))
    for start in range(0, len(rows), step):
        row, col = rows[start : start + step], cols[start : start + step]
        around = corners_of(row, col, down, across)  # (4, g)
        corners = nodes.take(around, axis=0)  # (4, g, C)
        winners = best.reshape(-1).take(around)  # (4, g)
        of_winners = nodes.reshape(-1).take(around * count + winners[:, None])  # (4, 4, g)
        yield row, col, around, find_contests(corners, winners, of_winners, words)


def meeting_cells(
    best: NDArray[np.integer], down: Axis, across: Axis
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The rows and columns, (g,) each, of the cells whose corners have different best words (rows, cols)."""
    upper, lower = best[down.low], best[down.high]  # (rows + 1, cols)
    corner = upper[:, across.low]  # (rows + 1, cols + 1)
    differ = corner != upper[:, across.high]
    differ |= corner != lower[:, across.low]
    differ |= corner != lower[:, across.high]
    differ[down.empty] = False
    differ[:, across.empty] = False
    rows, cols = np.nonzero(differ)
    return rows, cols


def corners_of(row: NDArray[np.intp], col: NDArray[np.intp], down: Axis, across: Axis) -> NDArray[np.intp]:
    """(4, g) flat indices of the nodes around cells: upper left, upper right, lower left, lower right."""
    width = len(across.low) - 1
    upper, lower = down.low[row] * width, down.high[row] * width
    left, right = across.low[col], across.high[col]
    return np.stack((upper + left, upper + right, lower + left, lower + right))


def _decode_cells(
    row: Indices,
    col: Indices,
    contests: Contests,
    values: NDArray[np.float32],
    shares: NDArray[np.float32],
    down: Axis,
    across: Axis,
    indices: NDArray[np.integer],
    confidence: NDArray[np.uint8],
) -> None:
    """Interpolate logits and probabilities in 1/255, (4, P) at the corners, and write the winners.

    Cells are the last axis, for a cell has few pixels, and NumPy is slow in short rows.
    """
    cells = contests.cells[: contests.counts[0]]
    # `take` lays its result out row by row; indexing would lay it out column by column.
    ys = down.span.take(row[cells], axis=1)  # (h, g)
    xs = across.span.take(col[cells], axis=1)  # (w, g)
    wy, wx = down.weight[ys], across.weight[xs]
    names = contests.places.astype(indices.dtype)
    end = 0
    for count in contests.counts:
        part = slice(end, end := end + count)
        value = bilinear(values[:, part], wy[:, :count], wx[:, :count])  # (h, w, count)
        share = bilinear(shares[:, part], wy[:, :count], wx[:, :count])
        if part.start == 0:
            highest, probability = value, share
            winner = np.broadcast_to(names[part], value.shape).copy()
            continue
        top, better = highest[..., :count], value > highest[..., :count]
        np.maximum(top, value, out=top)
        # As copying where `better` holds, in a quarter of the time; unsigned differences wrap there and back.
        share -= probability[..., :count]
        share *= better
        probability[..., :count] += share
        winner[..., :count] += (names[part] - winner[..., :count]) * better
    pixels = (ys * indices.shape[1])[:, None] + xs  # (h, w, g)
    indices.reshape(-1)[pixels] = winner
    probability += np.float32(0.5)
    confidence.reshape(-1)[pixels] = probability.astype(np.uint8)


def bilinear(
    corners: NDArray[np.float32], wy: NDArray[np.float32], wx: NDArray[np.float32]
) -> NDArray[np.float32]:
    """(4, g) corner values at offsets wy (h, g) and wx (w, g): (h, w, g)."""
    upper_left, upper_right, lower_left, lower_right = corners
    left = upper_left + wy * (lower_left - upper_left)  # (h, g)
    rise = upper_right + wy * (lower_right - upper_right) - left
    out: NDArray[np.float32] = rise[:, None] * wx  # (h, w, g)
    out += left[:, None]
    return out
