"""SC-CLIP: similarities of patches in CLIP's middle layers adjust the last layer.

Bai et al. 2024 (arXiv 2411.15869). Four steps: outlier patches are repaired (see outliers.py); patches are
averaged over those that a middle layer finds alike, before the last layer and after it; the last layer's
attention is the mean of that similarity and of key-key attention; and the sum of the layers in between goes
through the last layer too. The paper's layers are those of 12. For other depths they are taken at the same
share of the depth, which is a reading.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ovs_ros.encoders.clip.attention import LastLayer, affinity_weights, cosines_within, pool
from ovs_ros.encoders.clip.outliers import find_outliers, repair

_DEPTH = 12
_LIKENESS, _DETAIL, _FUSED = 9, 4, (4, 10)
"""Blocks of 12, counted from 1: whose patches say what is alike before and after the last layer, and the
first and last of those that are summed."""
_LEAST = 0.4
"""Cosines below it do not count when patches are averaged."""
_GAMMA = 3.0
"""The scale of a middle layer's cosines above their mean."""
_CLASS_SHARE = 0.3
"""How much of the class token is added to each patch."""


@dataclass(frozen=True)
class Levels:
    """Blocks, counted from 0, whose outputs are needed: see `_LIKENESS`, `_DETAIL` and `_FUSED`."""

    likeness: int
    detail: int
    fused: range

    @classmethod
    def of(cls, depth: int) -> "Levels":
        """Of a ViT with so many blocks."""

        def at(block: int) -> int:
            return max(0, block * depth // _DEPTH - 1)

        return cls(at(_LIKENESS), at(_DETAIL), range(at(_FUSED[0]), at(_FUSED[1]) + 1))


class Recorder:
    """Keeps the blocks' outputs (B, 1 + N, C) that `calibrate` needs."""

    def __init__(self, levels: Levels) -> None:
        self._levels = levels
        self.likeness: Tensor | None = None
        self.detail: Tensor | None = None
        self.fused: Tensor | None = None

    def tell(self, block: int, tokens: Tensor) -> None:
        """The output of a block, counted from 0."""
        if block == self._levels.likeness:
            self.likeness = tokens
        if block == self._levels.detail:
            self.detail = tokens
        if block in self._levels.fused:
            self.fused = tokens if self.fused is None else self.fused + tokens


def calibrate(block: Any, tokens: Tensor, recorded: Recorder, grid: tuple[int, int]) -> Tensor:
    """The last layer's patches (B, N, C), before `ln_post`.

    Args:
        block: the last one, a ResidualAttentionBlock of open_clip.
        tokens: (B, 1 + N, C), its input.
        recorded: holds all blocks before it.
        grid: (rows, columns), N together.
    """
    likeness, detail, fused = recorded.likeness, recorded.detail, recorded.fused
    assert likeness is not None and detail is not None and fused is not None
    outliers = find_outliers(tokens[:, 1:])
    alike = cosines_within(repair(likeness[:, 1:], outliers, grid))  # (B, N, N)
    patches = pool(repair(tokens[:, 1:], outliers, grid), alike, least=_LEAST)
    weights = affinity_weights(alike, beta=1.0, gamma=_GAMMA).to(tokens.dtype)

    last = LastLayer(block, torch.cat([tokens[:, :1], patches], 1)).mixed(weights)
    between = LastLayer(block, fused).mixed(weights)
    seen = last + between + _CLASS_SHARE * (tokens[:, :1] + fused[:, :1])
    return pool(seen, cosines_within(detail[:, 1:]), least=_LEAST)
