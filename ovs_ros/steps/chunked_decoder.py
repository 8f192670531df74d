"""From words to one word for every pixel, without the logits of all words at once.

The result is that of `decode`, for vocabularies whose logits would take gigabytes. Words come in chunks,
three times: for the best word of each node and its probability; for the logits of those winners at the
corners of the cells where they meet; and for the other words that can win between the nodes of such a cell.
That another word wins there is rare, so few of the last are looked at.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from ovs_ros.encoders.features import Features
from ovs_ros.steps.decoder import (
    Axis,
    Contests,
    bilinear,
    corners_of,
    find_contests,
    index_type,
    lay_axis,
    meeting_cells,
    upsample,
)
from ovs_ros.steps.grid import covered

AT_ONCE = 1 << 22
"""How many logits are held at a time: nodes times words. Heads take some times as much beside."""
_CORNERS_AT_ONCE = 1 << 22

Array = NDArray[np.float32]
Indices = NDArray[np.intp]
LogitsOf = Callable[[Indices], Array]


def decode_in_chunks(
    logits_of: LogitsOf, count: int, features: Features, size: tuple[int, int]
) -> tuple[NDArray[np.integer], NDArray[np.uint8]]:
    """The best word of every pixel, and its probability, as `decode` gives them.

    Args:
        logits_of: logits (rows, cols, m) float32 of the words with these m ascending indices, for the nodes
            that the image covers; each word's must not depend on the others.
        count: of all words.
        features: what the logits are made from.
        size: (H, W) of the image.
    """
    rows, cols = (covered(features.grid[axis], features.valid[axis]) for axis in (0, 1))
    down = lay_axis(rows, features.grid[0] * features.valid[0], size[0])
    across = lay_axis(cols, features.grid[1] * features.valid[1], size[1])
    step = max(1, AT_ONCE // (rows * cols))

    def chunks(words: Indices) -> Iterator[tuple[Indices, Array]]:
        for start in range(0, len(words), step):
            part = words[start : start + step]
            yield part, logits_of(part).reshape(rows * cols, -1)  # (nodes, m)

    best, highest, partition = _winners(chunks(np.arange(count)), rows * cols)
    probability = np.exp(highest - partition).reshape(rows, cols)
    grid = best.astype(index_type(count)).reshape(rows, cols)
    indices = grid.take(across.low[across.cell], axis=1).take(down.low[down.cell], axis=0)
    confidence = upsample(probability, down, across)
    row, col = meeting_cells(grid, down, across)  # (g,) each
    if len(row):
        cells = _Cells(row, col, best, partition, down, across, size)
        for part, logits in chunks(np.unique(cells.winners)):
            cells.learn_winners(part, logits)
        cells.compare_winners()
        for part, logits in chunks(np.arange(count)):
            cells.decide(part, logits, indices)
        decided = cells.top > -np.inf
        np.copyto(confidence, (cells.share + np.float32(0.5)).astype(np.uint8), where=decided)
    return indices, confidence


def _winners(chunks: Iterator[tuple[Indices, Array]], nodes: int) -> tuple[Indices, Array, Array]:
    """Of every node the best word, its logit and the log of the sum of all exponentials: (nodes,) each."""
    best = np.zeros(nodes, np.intp)
    highest = np.full(nodes, -np.inf, np.float32)
    sums = np.zeros(nodes, np.float32)
    for part, logits in chunks:
        winner = logits.argmax(axis=1)
        top = np.take_along_axis(logits, winner[:, None], axis=1)[:, 0]
        better = top > highest
        best[better] = part[winner[better]]
        now = np.maximum(highest, top)
        sums *= np.exp(highest - now)
        sums += np.exp(logits - now[:, None]).sum(axis=1)
        highest = now
    return best, highest, np.log(sums) + highest


class _Cells:
    """The g cells whose corners disagree, and what has won their pixels so far.

    Attributes:
        winners: (4, g) the best word at each corner.
        top: (H, W) float32 the highest logit of their pixels; -inf elsewhere.
        share: (H, W) float32 its probability in 1/255.
    """

    def __init__(
        self,
        row: Indices,
        col: Indices,
        best: Indices,
        partition: Array,
        down: Axis,
        across: Axis,
        size: tuple[int, int],
    ) -> None:
        self._row, self._col, self._down, self._across = row, col, down, across
        self._around = corners_of(row, col, down, across)  # (4, g)
        self._partition = partition
        self.winners = best[self._around]
        self._of_winners = np.zeros((4, 4, len(row)), np.float32)  # Of each winner, at each corner.
        self._least = np.full(len(best), np.inf, np.float32)
        self.top = np.full(size, -np.inf, np.float32)
        self.share = np.zeros(size, np.float32)

    def learn_winners(self, part: Indices, logits: Array) -> None:
        """Keep the logits of those winners that are among these words."""
        for winner, kept in zip(self.winners, self._of_winners, strict=True):
            place = np.searchsorted(part, winner).clip(max=len(part) - 1)
            here = np.flatnonzero(part[place] == winner)
            kept[:, here] = logits[self._around[:, here], place[here]]

    def compare_winners(self) -> None:
        """Find what other words have to be above, at some node, to win anything."""
        # In a cell its best winner is never below what it has at the least of the corners.
        surely = self._of_winners.min(axis=1).max(axis=0)  # (g,)
        for corner in self._around:  # One by one: NumPy's `at` reads wrong memory where it has to broadcast.
            np.minimum.at(self._least, corner, surely)

    def decide(self, part: Indices, logits: Array, indices: NDArray[np.integer]) -> None:
        """Let these words win pixels."""
        able = (logits > self._least[:, None]).any(axis=0) | np.isin(part, self.winners)
        words, nodes = part[able], np.ascontiguousarray(logits[:, able])
        if not len(words):
            return
        step = max(1, _CORNERS_AT_ONCE // (4 * len(words)))
        for start in range(0, len(self._row), step):
            cells = slice(start, start + step)
            corners = nodes.take(self._around[:, cells], axis=0)  # (4, g, m)
            contests = find_contests(corners, self.winners[:, cells], self._of_winners[:, :, cells], words)
            if contests.counts:
                self._interpolate(start, contests, words, nodes, indices)

    def _interpolate(
        self, start: int, contests: Contests, words: Indices, nodes: Array, indices: NDArray[np.integer]
    ) -> None:
        """Compare what these words have in their cells, which count from `start`, with what has won."""
        cells = start + contests.cells  # (P,)
        first = cells[: contests.counts[0]]  # (g,)
        ys = self._down.span.take(self._row[first], axis=1)  # (h, g)
        xs = self._across.span.take(self._col[first], axis=1)  # (w, g)
        wy, wx = self._down.weight[ys], self._across.weight[xs]
        corners = self._around.take(cells, axis=1)  # (4, P)
        logits = nodes[corners, contests.places]
        shares = np.exp(logits - self._partition[corners]) * np.float32(255)
        names = words[contests.places].astype(indices.dtype)
        pixels = (ys * indices.shape[1])[:, None] + xs  # (h, w, g)
        top, share, index = self.top.reshape(-1), self.share.reshape(-1), indices.reshape(-1)
        highest, probability, winner = top[pixels], share[pixels], index[pixels]
        end = 0
        for count in contests.counts:
            part = slice(end, end := end + count)
            value = bilinear(logits[:, part], wy[:, :count], wx[:, :count])  # (h, w, count)
            better = value > highest[..., :count]
            np.maximum(highest[..., :count], value, out=highest[..., :count])
            own = bilinear(shares[:, part], wy[:, :count], wx[:, :count])
            np.copyto(probability[..., :count], own, where=better)
            np.copyto(winner[..., :count], np.broadcast_to(names[part], better.shape), where=better)
        top[pixels], share[pixels], index[pixels] = highest, probability, winner
