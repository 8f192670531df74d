"""From logits on a coarse grid to one word for every pixel.

The result is that of bilinear upsampling (pixel centres, as `align_corners=False`) and argmax, at a fraction
of the cost. Between four nodes the upsampled logits are convex combinations of theirs. So where one word wins
at all four, it wins everywhere between them. Only in the other cells are logits interpolated, and there only
those of words that can win: a word that another one equals or exceeds at all four nodes cannot.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ovs_ros.encoders.features import Features

_GROUPS = (2, 4, 8)
"""Cells are interpolated together by how many words can win in them: up to 2, 4, 8, and more."""
_CHUNK = 1 << 22
"""How many corner logits are gathered at a time, to bound the memory that huge vocabularies take."""


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
    highest = np.take_along_axis(nodes, best[:, None], axis=1)  # (rows * cols, 1)
    partition = _log_partition(nodes, highest)  # (rows * cols,)
    best = best.astype(index_type(words)).reshape(rows, cols)
    probability = np.exp(highest[:, 0] - partition).reshape(rows, cols)
    indices = best.take(across.low[across.cell], axis=1).take(down.low[down.cell], axis=0)
    confidence = upsample(probability * np.float32(255), down, across)
    for cells in _mixed_cells(best, nodes, down, across):
        _decode_cells(*cells, nodes, partition, down, across, indices, confidence)
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
    """

    low: NDArray[np.intp]
    high: NDArray[np.intp]
    cell: NDArray[np.intp]
    weight: NDArray[np.float32]
    span: NDArray[np.intp]
    empty: NDArray[np.bool_]


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
    )
    for array in axis:
        array.setflags(write=False)
    return axis


def _log_partition(nodes: NDArray[np.float32], highest: NDArray[np.float32]) -> NDArray[np.float32]:
    """log sum exp of every row of (n, C), given its maximum (n, 1)."""
    step = max(1, _CHUNK // nodes.shape[1])
    sums = np.empty(len(nodes), np.float32)
    for start in range(0, len(nodes), step):
        part = slice(start, start + step)
        differences = nodes[part] - highest[part]
        np.exp(differences, out=differences).sum(axis=1, out=sums[part])
    log_sums: NDArray[np.float32] = np.log(sums, out=sums)
    return log_sums + highest[:, 0]


def upsample(grid: NDArray[np.float32], down: Axis, across: Axis) -> NDArray[np.uint8]:
    """Bilinear values (H, W), rounded, of a grid (rows, cols)."""
    wide = _interpolate(grid.T, across).T + np.float32(0.5)  # (rows, W)
    return _interpolate(wide, down).astype(np.uint8)


def _interpolate(grid: NDArray[np.float32], axis: Axis) -> NDArray[np.float32]:
    """(n, k) along its first axis: (S, k)."""
    low = grid.take(axis.low, axis=0)  # (n + 1, k)
    rise = grid.take(axis.high, axis=0) - low
    out = rise.take(axis.cell, axis=0)  # (S, k)
    out *= axis.weight[:, None]
    out += low.take(axis.cell, axis=0)
    return out


def _mixed_cells(
    best: NDArray[np.integer], nodes: NDArray[np.float32], down: Axis, across: Axis
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]]:
    """The cells whose corners disagree, in groups with about equally many words that can win.

    Of g cells: (g,) their rows, (g,) their columns, and (T, g) the indices of words that can win there. Cells
    are the last axis, for a cell has few pixels, and NumPy is slow in short rows.
    """
    rows, cols = meeting_cells(best, down, across)  # (g,) each
    words = nodes.shape[1]
    step = max(1, _CHUNK // (4 * words))
    for start in range(0, len(rows), step):
        row, col = rows[start : start + step], cols[start : start + step]
        around = corners_of(row, col, down, across)  # (4, g)
        corners = nodes[around]  # (4, g, C)
        beaten = _beaten(corners, best.reshape(-1)[around])  # (g, C)
        for group, ranked in grouped(np.where(beaten, -np.inf, corners.max(axis=0)), beaten):
            yield row[group], col[group], ranked


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


def grouped(
    highest: NDArray[np.float32], beaten: NDArray[np.bool_]
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Cells in groups with about equally many words that can win: (g',) cells, and (T, g') words of each.

    Args:
        highest: (g, C) of each word the highest logit at a cell's corners, -inf where it cannot win.
        beaten: (g, C) where it cannot win.
    """
    words = highest.shape[1]
    rivals = words - beaten.sum(axis=1)  # (g,)
    fewer = 0
    for most in (*(size for size in _GROUPS if size < words), words):
        group = np.flatnonzero((rivals > fewer) & (rivals <= most))
        fewer = most
        if len(group):
            count = int(rivals[group].max())
            ranked = np.argpartition(-highest[group], count - 1, axis=1)[:, :count]
            yield group, np.ascontiguousarray(ranked.T)


def _beaten(corners: NDArray[np.float32], winners: NDArray[np.integer]) -> NDArray[np.bool_]:
    """(g, C): words that another one, the best at some corner, equals or exceeds at all four corners.

    Of (4, g, C) logits at the corners and (4, g) the best word at each corner.
    """
    cells = np.arange(corners.shape[1])
    beaten = np.zeros(corners.shape[1:], bool)
    for winner in winners:  # (g,) for each of four corners
        of_winner = corners[:, cells, winner][:, :, None]  # (4, g, 1)
        at_no_corner_above = of_winner[0] >= corners[0]  # (g, C)
        for corner in range(1, 4):
            at_no_corner_above &= of_winner[corner] >= corners[corner]
        at_no_corner_above[cells, winner] = False
        beaten |= at_no_corner_above
    return beaten


def corners_of(row: NDArray[np.intp], col: NDArray[np.intp], down: Axis, across: Axis) -> NDArray[np.intp]:
    """(4, g) flat indices of the nodes around cells: upper left, upper right, lower left, lower right."""
    width = len(across.low) - 1
    upper, lower = down.low[row] * width, down.high[row] * width
    left, right = across.low[col], across.high[col]
    return np.stack((upper + left, upper + right, lower + left, lower + right))


def _decode_cells(
    row: NDArray[np.intp],
    col: NDArray[np.intp],
    words: NDArray[np.intp],
    nodes: NDArray[np.float32],
    partition: NDArray[np.float32],
    down: Axis,
    across: Axis,
    indices: NDArray[np.integer],
    confidence: NDArray[np.uint8],
) -> None:
    """Interpolate the logits of the words that can win in each cell, and write the winners."""
    # `take` lays its result out row by row; indexing would lay it out column by column.
    ys, xs = down.span.take(row, axis=1), across.span.take(col, axis=1)  # (h, g), (w, g)
    wy, wx = down.weight[ys], across.weight[xs]
    corners = corners_of(row, col, down, across)  # (4, g)
    logits = nodes[corners, words[:, None]]  # (T, 4, g)
    shares = np.exp(logits - partition[corners]) * np.float32(255)  # (T, 4, g)
    highest = bilinear(logits[0], wy, wx)  # (h, w, g)
    probability = bilinear(shares[0], wy, wx)
    names = words.astype(indices.dtype)
    winner = np.broadcast_to(names[0], highest.shape).copy()
    for place in range(1, len(logits)):
        value = bilinear(logits[place], wy, wx)
        better = value > highest
        np.maximum(highest, value, out=highest)
        # As copying where `better` holds, in a quarter of the time; unsigned differences wrap there and back.
        probability += (bilinear(shares[place], wy, wx) - probability) * better
        winner += (names[place] - winner) * better
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
