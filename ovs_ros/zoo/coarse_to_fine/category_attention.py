"""Attention over the positions of each category (DCP-CLIP, equations 11 and 12)."""

from torch import Tensor, nn

from ovs_ros.zoo.coarse_to_fine.config import CategoryAttentionKind
from ovs_ros.zoo.coarse_to_fine.layers import (
    Mlp,
    join_heads,
    linear_attention,
    softmax_attention,
    split_heads,
    zero,
)


class CategoryAttention(nn.Module):
    """Queries, keys and values of [F_c ‖ Proj F] (eq. 11) attend over positions, each category for itself.

    The linear layer of the two side by side is the sum of a layer of each, so that the image's part, the same
    for all categories, is computed once. Widths, the residual and the layer after it are readings, as in
    CAT-Seg. The kind 'full' is softmax attention; 'linear' costs less on large grids.
    """

    def __init__(
        self, kind: CategoryAttentionKind, width: int, dim: int, guide_width: int, heads: int, mlp_ratio: int
    ) -> None:
        super().__init__()
        self.attend = linear_attention if kind == "linear" else softmax_attention
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.guide = nn.Linear(dim, guide_width)
        self.guide_norm = nn.LayerNorm(guide_width)
        self.from_cost = nn.Linear(width, 3 * width, bias=False)
        self.from_guide = nn.Linear(guide_width, 3 * width, bias=False)
        self.out = zero(nn.Linear(width, width, bias=False))
        self.mlp = Mlp(width, mlp_ratio * width) if mlp_ratio else None

    def forward(self, cost: Tensor, patches: Tensor) -> Tensor:
        """Attend.

        Args:
            cost: (B, M, h, w, width), the embedded cost; patches: (B, h, w, D), those of equation 10.

        Returns:
            (B, M, h, w, width).
        """
        guide = self.from_guide(self.guide_norm(self.guide(patches)))  # (B, h, w, 3 * width)
        both = self.from_cost(self.norm(cost)) + guide.unsqueeze(1)  # (B, M, h, w, 3 * width)
        query, key, value = (split_heads(x, self.heads) for x in both.flatten(2, 3).chunk(3, dim=-1))
        attended = join_heads(self.attend(query, key, value))  # (B, M, N, width)
        cost = cost + self.out(attended).reshape_as(cost)
        return cost if self.mlp is None else cost + self.mlp(cost)
