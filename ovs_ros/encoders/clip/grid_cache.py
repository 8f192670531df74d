"""Tensors that depend on the patch grid alone, made once for each grid."""

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

KEPT = 8
"""Grids kept at once: a robot's cameras have few sizes, a data set many."""
Key = tuple[tuple[int, int], torch.device, torch.dtype]


class GridCache:
    """The tensors of the grids that were used last.

    A CUDA graph reads what it was captured with at every replay, so an entry that was used during a capture
    is never dropped. One that is made during a capture holds nothing before the first replay and is not kept,
    nor is one that is made while `torch.export` or `torch.compile` traces, which holds nothing at all.

    Args:
        make: gives the tensor of a grid (rows, columns) on the device and in the dtype of another tensor.
    """

    def __init__(self, make: Callable[[tuple[int, int], Tensor], Tensor]) -> None:
        self._make = make
        self._entries: OrderedDict[Key, Tensor] = OrderedDict()
        self._captured: dict[Key, Tensor] = {}

    def __call__(self, grid: tuple[int, int], like: Tensor) -> Tensor:
        """The tensor of a grid (rows, columns), on the device and in the dtype of `like`."""
        key = grid, like.device, like.dtype
        capturing = like.is_cuda and torch.cuda.is_current_stream_capturing()
        entry = self._entries.get(key, self._captured.get(key))
        if entry is None:
            entry = self._make(grid, like)
            if capturing or torch.compiler.is_compiling():
                return entry
        if capturing:
            self._captured[key] = entry
        self._entries[key] = entry
        self._entries.move_to_end(key)
        if len(self._entries) > KEPT:
            self._entries.popitem(last=False)
        return entry


def resampled_positions(
    table: Tensor, square: tuple[int, int], grid: tuple[int, int], *, antialias: bool
) -> Tensor:
    """Position embeddings for another grid, bicubic.

    Args:
        table: (T, C): those of tokens that have no place, which stay as they are, then of the grid's patches.
        square: (rows, columns) that the table was made for.
        grid: (rows, columns) that is wanted.
        antialias: as the model was trained or is usually run; matters where the grid shrinks.

    Returns:
        (T - rows*columns of `square` + rows*columns of `grid`, C).
    """
    if grid == square:
        return table
    extra = len(table) - square[0] * square[1]
    laid = table[extra:].float().T.unflatten(1, square)[None]  # (1, C, rows, columns)
    laid = F.interpolate(laid, grid, mode="bicubic", antialias=antialias, align_corners=False)
    return torch.cat([table[:extra], laid[0].flatten(1).T.to(table.dtype)])
