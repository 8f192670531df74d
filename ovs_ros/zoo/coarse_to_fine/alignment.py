"""Text-guided alignment of patches and words (DCP-CLIP, eq. 6 to 12), and FGAseg's class aggregation."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovs_ros.zoo.coarse_to_fine.config import NetworkConfig
from ovs_ros.zoo.coarse_to_fine.layers import (
    MASKED,
    Mlp,
    float32_cosines,
    join_heads,
    linear_attention,
    split_axis,
    split_heads,
    zero,
)

KERNEL = 7
"""Side of the convolution over the cost maps; the paper's text lost it, CAT-Seg has 7."""


def cost_volume(patches: Tensor, words: Tensor) -> Tensor:
    """Cosines of patches with prompts (DCP-CLIP, eq. 6).

    Args:
        patches: (B, h, w, D) unit; words: (B, M, P, D) unit.

    Returns:
        (B, M, P, h, w) float32.
    """
    return split_axis(float32_cosines(patches, words.flatten(1, 2)), 1, -1, words.shape[2])


class CostEmbedding(nn.Module):
    """F_c: a 7x7 convolution of each category's cost maps."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, KERNEL, padding=KERNEL // 2)

    def forward(self, cost: Tensor) -> Tensor:
        """(B, M, channels, h, w) to (B, M, h, w, width)."""
        embedded = self.conv(cost.flatten(0, 1))  # (B * M, width, h, w)
        return split_axis(embedded.permute(0, 2, 3, 1), 0, cost.shape[0], -1)


class TextGuidance(nn.Module):
    """G of equation 7: a vector for each selected category.

    The equation is lost; the paper lists the selected words, a learnable prompt, the class token's
    classification logits and one linear projection. The reading is ZegCLIP's relationship descriptor,
    [T ⊙ f_cls ‖ T ‖ prompt]. Unit vectors come in times the square root of D, so that their numbers are of
    the size of 1.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        dim = config.dim
        self.prompt = nn.Parameter(torch.randn(dim) * 0.02)
        # The prompt, the same for all categories, is the bias.
        self.project = nn.Linear(3 * dim, config.text_width, bias=False)

    def forward(self, words: Tensor, image: Tensor) -> Tensor:
        """Words (B, M, D) unit and image (B, D) unit to (B, M, text_width)."""
        root = words.shape[-1] ** 0.5
        text = words * root
        described = text * (image * root).unsqueeze(1)
        return self.project(torch.cat([described, text, self.prompt.expand_as(words)], dim=-1))


class CrossAttention(nn.Module):
    """Attention from patches (queries) to the selected words (keys and values), equations 8 to 10.

    F' = LN(F + attention(F, G)), then F' + MLP(LN F').
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        dim, width = config.dim, config.text_width
        self.heads = config.heads
        self.norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, width)
        self.key = nn.Linear(width, width)
        self.value = zero(nn.Linear(width, dim))
        self.mlp = Mlp(dim, config.mlp_ratio)

    def forward(self, patches: Tensor, guidance: Tensor, mask: Tensor | None) -> Tensor:
        """Patches (B, h, w, D) of the size of 1 and guidance (B, M, text_width) to (B, h, w, D)."""
        query = split_heads(self.query(patches).flatten(1, 2), self.heads)  # (B, heads, N, d / heads)
        key = split_heads(self.key(guidance), self.heads)  # (B, heads, M, d / heads)
        value = split_heads(self.value(guidance), self.heads)  # (B, heads, M, D / heads)
        bias = None if mask is None else (~mask)[:, None, None].to(query.dtype) * MASKED  # (B, 1, 1, M)
        attended = join_heads(F.scaled_dot_product_attention(query, key, value, bias))  # (B, N, D)
        patches = self.norm(patches + attended.reshape_as(patches))
        return patches + self.mlp(patches)


class CategoryAttention(nn.Module):
    """Queries, keys and values of [F_c ‖ Proj F] attend over positions, each category for itself (11, 12).

    The linear layer of the two side by side is the sum of a layer of each, so that the image's part, the same
    for all categories, is computed once. Widths, the residual and the layer after it are readings, as in
    CAT-Seg. The kind 'full' is softmax attention; 'linear' costs less on large grids.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        width, guide_width = config.width, config.guide_width
        self.linear = config.category_attention == "linear"
        self.heads = config.heads
        self.norm = nn.LayerNorm(width)
        self.guide = nn.Linear(config.dim, guide_width)
        self.guide_norm = nn.LayerNorm(guide_width)
        self.from_cost = nn.Linear(width, 3 * width, bias=False)
        self.from_guide = nn.Linear(guide_width, 3 * width, bias=False)
        self.out = zero(nn.Linear(width, width, bias=False))
        self.mlp = Mlp(width, config.mlp_ratio)

    def forward(self, cost: Tensor, patches: Tensor) -> Tensor:
        """Embedded cost (B, M, h, w, width) and patches (B, h, w, D) of equation 10 to the cost's shape."""
        guide = self.from_guide(self.guide_norm(self.guide(patches)))  # (B, h, w, 3 * width)
        both = self.from_cost(self.norm(cost)) + guide.unsqueeze(1)  # (B, M, h, w, 3 * width)
        query, key, value = (split_heads(x, self.heads) for x in both.flatten(2, 3).chunk(3, dim=-1))
        attend = linear_attention if self.linear else F.scaled_dot_product_attention
        cost = cost + self.out(join_heads(attend(query, key, value))).reshape_as(cost)
        return cost + self.mlp(cost)


class ClassLayer(nn.Module):
    """One layer of FGAseg's class aggregation: categories, which have no order, compete at each position.

    Cross-attention: queries of the words, the text guidance; keys and values of the cost features Z. FGAseg
    has two such layers, DCP-CLIP none, and CAT-Seg (Cho et al., CVPR 2024) two of self-attention, whose
    linear attention this takes: its cost is linear in the number of categories. Widths and norms are
    readings.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(config.dim, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = zero(nn.Linear(width, width, bias=False))
        self.mlp = Mlp(width, config.mlp_ratio)

    def forward(self, cost: Tensor, words: Tensor, mask: Tensor | None) -> Tensor:
        """Cost (B, h, w, M, width), words (B, M, D) unit and mask to the cost's shape."""
        query = self.query(words * words.shape[-1] ** 0.5)[:, None, None]  # (B, 1, 1, M, width)
        key, value = self.key_value(self.norm(cost)).chunk(2, dim=-1)  # (B, h, w, M, width) each
        query, key, value = (split_heads(x, self.heads) for x in (query, key, value))
        there = None if mask is None else mask[:, None, None, None, :, None].to(key.dtype)
        cost = cost + self.out(join_heads(linear_attention(query, key, value, there)))
        return cost + self.mlp(cost)
