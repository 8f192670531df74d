"""Tensors that depend on the patch grid alone, made once for each grid."""

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor

KEPT = 8
"""Grids kept at once: a robot's cameras have few sizes, a data set many."""

Key = tuple[tuple[int, int], torch.device, torch.dtype]


class GridCache:
    """The tensors of the grids that were used last.

    A CUDA graph reads what it was captured with at every replay, so an entry that was used during a capture
    is never dropped. One that is made during a capture holds nothing before the first replay and is not kept,
    nor is one that is made while `torch.export` or `torch.compile` traces, which holds nothing at all.

    Args:
        make: gives the tensor of a grid (rows, columns) for a device and a dtype.
    """

    def __init__(self, make: Callable[[tuple[int, int], torch.device, torch.dtype], Tensor]) -> None:
        self._make = make
        self._entries: OrderedDict[Key, Tensor] = OrderedDict()
        self._captured: dict[Key, Tensor] = {}

    def __call__(self, grid: tuple[int, int], like: Tensor) -> Tensor:
        """The tensor of a grid (rows, columns), on the device and in the dtype of `like`."""
        key = grid, like.device, like.dtype
        capturing = like.is_cuda and torch.cuda.is_current_stream_capturing()
        entry = self._entries.get(key, self._captured.get(key))
        if entry is None:
            entry = self._make(*key)
            if capturing or torch.compiler.is_compiling():
                return entry
        if capturing:
            self._captured[key] = entry
        self._entries[key] = entry
        self._entries.move_to_end(key)
        if len(self._entries) > KEPT:
            self._entries.popitem(last=False)
        return entry
