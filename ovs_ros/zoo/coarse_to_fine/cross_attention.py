"""Attention from the image to the selected words (DCP-CLIP, equations 8 to 10).

Where the layer is normalised is a reading: 'post' (default) as equation 9 has it, F' = LN(F + attention(F)),
or 'pre' as today's transformers do, F' = F + attention(LN(F)). Equation 10 is F' + MLP(LN(F')) in both.
"""

from torch import Tensor, nn

from ovs_ros.zoo.coarse_to_fine.config import NormOrder
from ovs_ros.zoo.coarse_to_fine.layers import MASKED, Mlp, join_heads, softmax_attention, split_heads, zero


class CrossAttention(nn.Module):
    """Cross-attention from patches (queries) to words (keys and values)."""

    def __init__(self, dim: int, text_width: int, heads: int, mlp_ratio: int, norm_order: NormOrder) -> None:
        super().__init__()
        self.heads = heads
        self.norm_order = norm_order
        self.norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, text_width)
        self.key = nn.Linear(text_width, text_width)
        self.value = zero(nn.Linear(text_width, dim))
        self.mlp = Mlp(dim, mlp_ratio * dim) if mlp_ratio else None

    def forward(self, patches: Tensor, guidance: Tensor, mask: Tensor | None) -> Tensor:
        """Attend.

        Args:
            patches: (B, h, w, D), numbers of the size of 1; guidance: (B, M, text_width) of equation 7.
            mask: (B, M) bool, False where a category is only padding; None: none is.

        Returns:
            (B, h, w, D).
        """
        normed = self.norm(patches) if self.norm_order == "pre" else patches
        query = split_heads(self.query(normed).flatten(1, 2), self.heads)  # (B, heads, N, d / heads)
        key = split_heads(self.key(guidance), self.heads)  # (B, heads, M, d / heads)
        value = split_heads(self.value(guidance), self.heads)  # (B, heads, M, D / heads)
        bias = None if mask is None else (~mask)[:, None, None].to(query.dtype) * MASKED  # (B, 1, 1, M)
        attended = join_heads(softmax_attention(query, key, value, bias))  # (B, N, D)
        patches = patches + attended.reshape_as(patches)
        if self.norm_order == "post":
            patches = self.norm(patches)
        return patches if self.mlp is None else patches + self.mlp(patches)
