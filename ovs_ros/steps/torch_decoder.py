"""From logits on a coarse grid to one word for every pixel, on a device; decoder.py says what is computed."""

from typing import NamedTuple

import torch
from torch import Tensor

from ovs_ros.geometry.resample import bilinear_matrix
from ovs_ros.steps.decoder import lay_axis

_CHUNK = 1 << 24
"""How many logits of pixels are held at a time: 64 MiB of them."""


class DeviceAxis(NamedTuple):
    """Positions of an axis' pixels between the nodes of the grid.

    Attributes:
        matrix: (S, n) float32, interpolates from the nodes.
        low, high: (S,) int64, the nodes beside each pixel.
        weight: (S,) float32, how far it lies from `low` towards `high`.
    """

    matrix: Tensor
    low: Tensor
    high: Tensor
    weight: Tensor


def device_axis(nodes: int, covered: float, size: int, device: torch.device) -> DeviceAxis:
    """Pixels 0 to size - 1 share the first `covered` (a fractional number) of the nodes."""
    axis = lay_axis(nodes, covered, size)
    matrix = bilinear_matrix(nodes, covered / nodes, size, 1.0)
    arrays = (matrix.copy(), axis.low[axis.cell], axis.high[axis.cell], axis.weight.copy())
    return DeviceAxis(*(torch.from_numpy(array).to(device) for array in arrays))


def decode(logits: Tensor, down: DeviceAxis, across: DeviceAxis) -> tuple[Tensor, Tensor]:
    """The best word of every pixel, and its probability.

    Args:
        logits: (rows, cols, S) float32, finite.
        down, across: where the pixels lie.

    Returns:
        (H, W) int64 the slot with the highest upsampled logit; (H, W) uint8 the probability of that slot in
        1/255, upsampled from its softmax at the nodes.
    """
    columns, slots = logits.shape[1], logits.shape[2]
    planes = logits.permute(2, 0, 1).contiguous()  # (S, rows, cols)
    wide = planes @ across.matrix.T  # (S, rows, W)
    step = max(1, _CHUNK // (slots * wide.shape[2]))
    winner = torch.cat([(part @ wide).argmax(0) for part in down.matrix.split(step)])  # (H, W)
    probability = logits.softmax(2)

    def at(row: Tensor, column: Tensor) -> Tensor:
        return probability.take((row[:, None] * columns + column) * slots + winner)

    left = torch.lerp(at(down.low, across.low), at(down.high, across.low), down.weight[:, None])
    right = torch.lerp(at(down.low, across.high), at(down.high, across.high), down.weight[:, None])
    share = torch.lerp(left, right, across.weight)
    return winner, (share * 255 + 0.5).to(torch.uint8)
