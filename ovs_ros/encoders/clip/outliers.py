"""Repair outlier patches, in which CLIP's deep layers store global information (SC-CLIP)."""

import torch
from torch import Tensor
from torch.nn import functional as F

NEIGHBOURS = 30
SHARE = 0.05
"""SC-CLIP's settings: number of neighbours, and share of patches that count as outliers."""
_NO_DISTANCE = 1e-10


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


def find_outliers(tokens: Tensor, *, neighbours: int = NEIGHBOURS, share: float = SHARE) -> Tensor:
    """The tokens whose factor is above the quantile 1 - share of their image's.

    About that share of them, by a number that follows from N alone.

    Args:
        tokens: (B, N, C).
        neighbours: see `local_outlier_factors`.
        share: of the tokens of an image.

    Returns:
        (B, N) bool.
    """
    count = tokens.shape[1]
    above = count - 1 - int((1 - share) * (count - 1))
    if above == 0:
        return torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    factors = local_outlier_factors(tokens, neighbours=neighbours)
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
