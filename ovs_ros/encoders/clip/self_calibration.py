"""SC-CLIP: similarities of patches in CLIP's middle layers adjust the last layer.

Bai et al. 2024 (arXiv 2411.15869). Four steps: outlier patches, in which CLIP's deep layers store global
information, are repaired; patches are averaged over those that a middle layer finds alike, before the last
layer and after it; the last layer's attention is the mean of that similarity and of key-key attention; and
the sum of the layers in between goes through the last layer too. The paper's layers are those of 12; at other
depths, those at the same share of the depth, which is a reading.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ovs_ros.encoders.clip.attention import LastLayer, affinity_weights, cosines_within, pool

NEIGHBOURS, SHARE = 30, 0.05
"""Number of neighbours, and share of patches that count as outliers."""
_NO_DISTANCE = 1e-10
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


def calibrate(block: Any, outputs: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
    """The last layer's patches (B, N, C), before `ln_post`.

    Args:
        block: the last one, a ResidualAttentionBlock of open_clip.
        outputs: of all blocks before it, (B, 1 + N, C) each.
        grid: (rows, columns), N together.
    """
    depth = len(outputs) + 1
    tokens, likeness, detail = outputs[-1], outputs[level(_LIKENESS, depth)], outputs[level(_DETAIL, depth)]
    first, last = (level(block, depth) for block in _FUSED)
    fused = torch.stack(tuple(outputs[first : last + 1])).sum(0)
    outliers = find_outliers(tokens[:, 1:])
    alike = cosines_within(repair(likeness[:, 1:], outliers, grid))  # (B, N, N)
    patches = pool(repair(tokens[:, 1:], outliers, grid), alike, least=_LEAST)
    weights = affinity_weights(alike, beta=1.0, gamma=_GAMMA).to(tokens.dtype)
    mended = LastLayer(block, torch.cat([tokens[:, :1], patches], 1)).mixed(weights)
    between = LastLayer(block, fused).mixed(weights)
    seen = mended + between + _CLASS_SHARE * (tokens[:, :1] + fused[:, :1])
    return pool(seen, cosines_within(detail[:, 1:]), least=_LEAST)


def level(block: int, depth: int) -> int:
    """The block of a ViT, counted from 0, at the share of its depth where `block` of 12 lies."""
    return max(0, block * depth // _DEPTH - 1)


def local_outlier_factors(tokens: Tensor, *, neighbours: int = NEIGHBOURS) -> Tensor:
    """Density of the neighbours of each token relative to its own density.

    The local outlier factor of Breunig et al. 2000 (definitions 5 to 7) over Euclidean distances. SC-CLIP
    names that factor; the code published with it takes squared distances and a token's own neighbourhood as
    the reach of all its distances, which orders tokens a little differently.

    Args:
        tokens: (B, N, C) of any dtype, N at least 2.
        neighbours: k; N - 1 where there are fewer.

    Returns:
        (B, N) float32; about 1 for a token amid others, more for an outlier.
    """
    # Without the mean that all tokens share, the distances lose fewer digits to cancellation.
    x = tokens.float()
    x = x - x.mean(1, keepdim=True)
    distances = torch.cdist(x, x)  # (B, N, N), float32 under autocast too
    itself = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
    nearest = distances.masked_fill(itself, torch.inf).topk(min(neighbours, x.shape[1] - 1), largest=False)
    reach = nearest.values[..., -1]  # (B, N), the distance of the k-th neighbour
    reachability = torch.maximum(nearest.values, _of(reach, nearest.indices))  # (B, N, k)
    density = 1 / reachability.mean(-1).clamp_min(_NO_DISTANCE)  # (B, N)
    return _of(density, nearest.indices).mean(-1) / density


def find_outliers(tokens: Tensor) -> Tensor:
    """The tokens (B, N, C) whose factor is above the quantile 1 - SHARE of their image's: (B, N) bool.

    How many they are follows from N alone.
    """
    count = tokens.shape[1]
    above = count - 1 - int((1 - SHARE) * (count - 1))
    if above == 0:
        return torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    factors = local_outlier_factors(tokens)
    return factors >= factors.topk(above).values[:, -1:]


def repair(tokens: Tensor, outliers: Tensor, grid: tuple[int, int]) -> Tensor:
    """Put the mean of the inliers among its eight neighbours in each outlier's place.

    An outlier with only outliers around it stays.

    Args:
        tokens: (B, N, C), patches of the grid, row by row.
        outliers: (B, N) bool.
        grid: (rows, columns), N together.

    Returns:
        (B, N, C).
    """
    inlier = (~outliers).to(tokens.dtype)[:, None].unflatten(-1, grid)  # (B, 1, rows, columns)
    laid = tokens.mT.unflatten(-1, grid)  # (B, C, rows, columns)
    total = F.avg_pool2d(laid * inlier, 3, stride=1, padding=1)
    share = F.avg_pool2d(inlier, 3, stride=1, padding=1)  # in ninths, as the total is
    mean = (total / share.clamp_min(1 / 18)).flatten(2).mT
    replaced = outliers & (share.flatten(1) > 0)
    return torch.where(replaced[..., None], mean, tokens)


def _of(values: Tensor, indices: Tensor) -> Tensor:
    """Values (B, N) of the tokens (B, N, k) named by indices."""
    return values.gather(1, indices.flatten(1)).view_as(indices)
