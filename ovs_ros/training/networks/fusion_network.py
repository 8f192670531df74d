"""LMSeg's weighted fusion with a second image encoder; `encoders/fusion.py` is the same at run time."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Fusion(nn.Module):
    """F = w F_1 + (1 - w) Proj(F_2), brought back to unit norm (arXiv 2412.00364).

    Given in the paper: the weighted sum, with w learned. Readings: w is the sigmoid of one scalar; Proj is
    one linear layer; unit norm afterwards keeps products with words cosines. Proj
    starts at zero, so that training starts from the first encoder alone.

    Args:
        channels: C of the second encoder's map.
        dim: D, the space shared with words.
        start: w at the start, in (0, 1).
    """

    def __init__(self, channels: int, dim: int, *, start: float = 0.5) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.logit(torch.tensor(start)))
        self.projection = nn.Linear(channels, dim)
        nn.init.zeros_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)

    @property
    def weight(self) -> Tensor:
        """w, a scalar in (0, 1)."""
        return self.mix.sigmoid()

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Fuse two maps on one grid.

        Args:
            first: (…, D) of unit norm.
            second: (…, C), resized to the first's grid.

        Returns:
            (…, D) of unit norm.
        """
        w = self.weight
        return F.normalize(w * first + (1 - w) * self.projection(second), dim=-1)
