"""Attention over the categories at each position, which lets them compete.

DCP-CLIP has no such part; CAT-Seg (Cho et al., CVPR 2024) and FGAseg have. Linear attention: its cost is
linear in the number of categories.
"""

from torch import Tensor, nn

from ovs_ros.zoo.coarse_to_fine.layers import Mlp, join_heads, linear_attention, split_heads, zero


class ClassAttention(nn.Module):
    """Queries and keys of [Z ‖ Proj T] and values of Z attend over the categories, which have no order."""

    def __init__(self, width: int, dim: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.from_cost = nn.Linear(width, 3 * width, bias=False)
        self.from_words = nn.Linear(dim, 2 * width, bias=False)
        self.out = zero(nn.Linear(width, width, bias=False))
        self.mlp = Mlp(width, mlp_ratio * width) if mlp_ratio else None

    def forward(self, cost: Tensor, words: Tensor, mask: Tensor | None) -> Tensor:
        """Attend.

        Args:
            cost: (B, h, w, M, width); words: (B, M, D) unit.
            mask: (B, M) bool, False where a category is only padding; None: none is.

        Returns:
            (B, h, w, M, width).
        """
        text = self.from_words(words * words.shape[-1] ** 0.5)[:, None, None]  # (B, 1, 1, M, 2 * width)
        query, key, value = self.from_cost(self.norm(cost)).chunk(3, dim=-1)
        more_query, more_key = text.chunk(2, dim=-1)
        query, key, value = (
            split_heads(x, self.heads)  # (B, h, w, heads, M, width / heads)
            for x in (query + more_query, key + more_key, value)
        )
        there = None if mask is None else mask[:, None, None, None, :, None].to(key.dtype)
        cost = cost + self.out(join_heads(linear_attention(query, key, value, there)))
        return cost if self.mlp is None else cost + self.mlp(cost)
