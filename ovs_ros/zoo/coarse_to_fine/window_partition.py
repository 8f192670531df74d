"""Cutting a grid into square windows, for attention that sees only its window (Swin, Liu et al., ICCV 2021).

Shifted windows are windows of a grid that is padded at its top and left as well, instead of Swin's cyclic
shift with a mask: what attends to what is the same, and windows at the border are merely emptier.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovs_ros.zoo.coarse_to_fine.layers import MASKED, split_axis


def cut(x: Tensor, window: int, offset: int) -> Tensor:
    """(B, h, w, C) to (B, windows, window**2, C), zeros beyond the grid."""
    x = F.pad(x, (0, 0, *_pads(x.shape[2], window, offset), *_pads(x.shape[1], window, offset)))
    x = split_axis(split_axis(x, 2, -1, window), 1, -1, window)  # (B, rows, window, columns, window, C)
    return x.transpose(2, 3).flatten(1, 2).flatten(2, 3)


def join(x: Tensor, h: int, w: int, window: int, offset: int) -> Tensor:
    """The inverse of `cut`: (B, windows, window**2, C) to (B, h, w, C)."""
    columns = (w + offset + window - 1) // window
    x = x.reshape(x.shape[0], -1, columns, window, window, x.shape[3])
    x = x.transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return x[:, offset : offset + h, offset : offset + w]


def _pads(length: int, window: int, offset: int) -> tuple[int, int]:
    return offset, -(length + offset) % window


class WindowBias(nn.Module):
    """What is added to scores in a window: a number for each offset and head, and what hides the padding.

    Swin's relative position bias (equation 4 there).
    """

    def __init__(self, window: int, offset: int, heads: int) -> None:
        super().__init__()
        self.window, self.offset = window, offset
        self.table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        line = torch.arange(window)
        far = line[:, None] - line + window - 1  # (window, window), from 0 to 2 * window - 2
        index = far[:, None, :, None] * (2 * window - 1) + far[None, :, None, :]
        self.register_buffer("index", index.reshape(-1), persistent=False)  # query y, x, key y, x

    def forward(self, grid: Tensor) -> Tensor:
        """Biases of a grid's windows.

        Args:
            grid: (B, h, w, C), anything on the grid.

        Returns:
            (windows, heads, window**2, window**2).
        """
        size = self.window**2
        near = self.table[self.index].view(size, size, -1).permute(2, 0, 1)  # (heads, size, size)
        there = torch.ones_like(grid[:1, ..., :1])  # (1, h, w, 1)
        hidden = (1 - cut(there, self.window, self.offset)[0]) * MASKED  # (windows, window**2, 1)
        return near + hidden.transpose(1, 2).unsqueeze(1)
