"""Variants of the last layer's attention in a CLIP ViT.

CLIP trains the class token alone, so that the last layer's own attention scatters the patches' meaning; these
variants replace it without training. With X the layer's input, Q, K, V its queries, keys and values, d a
head's width and O the projection that joins the heads, a *reduced* layer gives O(A V), without the residual
and without the MLP; a *whole* one gives Y + MLP(LN Y) with Y = X + O(A V).

==========  ===========================================================  =======  ==========================
variant     A                                                            layer    paper
==========  ===========================================================  =======  ==========================
plain       softmax(Q K^T / sqrt d)                                      whole    Radford et al. 2021
maskclip    I                                                            reduced  Zhou et al. 2022
sclip       softmax(Q Q^T / sqrt d) + softmax(K K^T / sqrt d)            whole    Wang et al. 2023
clearclip   softmax(Q Q^T / sqrt d)                                      reduced  Lan et al. 2024, ClearCLIP
naclip      softmax(K K^T / sqrt d + exp(-|p_i - p_j|^2 / 2 sigma^2))    reduced  Hajimiri et al. 2024
proxyclip   softmax(gamma (S - beta mean S)), negative arguments out     reduced  Lan et al. 2024, ProxyCLIP
==========  ===========================================================  =======  ==========================

Where the patches see the class token as well (plain, sclip, clearclip, naclip) it is one more key, with no
Gaussian added to it. A layer's learned scale, where a model has one, belongs to the branch that it scales and
stays in a reduced layer.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

SIGMA = 5.0
"""The standard deviation of NACLIP's Gaussian in patches (Hajimiri et al. 2024, section 4.1)."""
BETA, GAMMA = 1.2, 3.0
"""ProxyCLIP's beta (subtracted from affinities, in units of their mean) and gamma (their scale)."""
_ALIGNED = 16
"""Fused kernels read masks whose rows begin at multiples of this many numbers, and copy others each time."""


def attend(block: Any, tokens: Tensor) -> Tensor:
    """The first half of a block of open_clip's ViT: tokens (B, T, C) plus their attention."""
    query, key, value = _heads(block, block.ln_1(tokens), 0, 3)
    return tokens + _join(block, F.scaled_dot_product_attention(query, key, value))


def feed(block: Any, tokens: Tensor) -> Tensor:
    """The second half of a block: tokens (B, T, C) plus their MLP."""
    return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))


class LastLayer:
    """The last block on one batch; every variant gives (B, N, C) for the N patches, before `ln_post`.

    Args:
        block: a ResidualAttentionBlock of open_clip.
        tokens: (B, 1 + N, C), its input, the class token first.

    Attributes:
        key, value: (B, heads, 1 + N, d).
    """

    def __init__(self, block: Any, tokens: Tensor) -> None:
        self._block = block
        self._tokens = tokens
        self._normed = block.ln_1(tokens)
        self.key, self.value = _heads(block, self._normed, 1, 3)

    def class_token(self) -> Tensor:
        """The class token (B, C) as CLIP itself has it."""
        return self._whole(self._query(slice(1)), slice(1))[:, 0]

    def class_attention(self) -> Tensor:
        """Attention of the class token to each patch, as shares of all patches: (B, heads, N) float32."""
        query = self._query(slice(1))  # (B, heads, 1, d)
        scores = (query @ self.key[:, :, 1:].mT)[:, :, 0] / query.shape[-1] ** 0.5
        return scores.float().softmax(-1)

    def plain(self) -> Tensor:
        """CLIP's own patches."""
        return self._whole(self._query(slice(1, None)), slice(1, None))

    def maskclip(self) -> Tensor:
        """Each patch attends only to itself (MaskCLIP)."""
        return _join(self._block, self.value[:, :, 1:])

    def maskclip_whole(self) -> Tensor:
        """The same with residual and MLP, as CLIP-DINOiser takes it."""
        return feed(self._block, self._tokens[:, 1:] + self.maskclip())

    def sclip(self) -> Tensor:
        """Query-query and key-key attention (SCLIP's correlative self-attention)."""
        query = self._query(slice(None))
        by_query = F.scaled_dot_product_attention(query[:, :, 1:], query, self.value)
        by_key = F.scaled_dot_product_attention(self.key[:, :, 1:], self.key, self.value)
        return feed(self._block, self._tokens[:, 1:] + _join(self._block, by_query + by_key))

    def clearclip(self) -> Tensor:
        """Query-query attention (ClearCLIP)."""
        query = self._query(slice(None))
        return _join(self._block, F.scaled_dot_product_attention(query[:, :, 1:], query, self.value))

    def naclip(self, window: Tensor) -> Tensor:
        """Key-key attention with a Gaussian around each patch (NACLIP).

        Args:
            window: (N, 1 + N), see `gaussian_window`; of the dtype of `key`, else it is cast in each frame.
        """
        seen = F.scaled_dot_product_attention(self.key[:, :, 1:], self.key, self.value, attn_mask=window)
        return _join(self._block, seen)

    def given(self, weights: Tensor) -> Tensor:
        """Attention with given weights (B, N, N), the same in every head."""
        value = self.value[:, :, 1:].transpose(1, 2).flatten(2)  # (B, N, C)
        return self._block.ls_1(self._block.attn.out_proj(weights @ value))

    def mixed(self, weights: Tensor) -> Tensor:
        """The mean of `given` and of key-key attention among patches alone (SC-CLIP)."""
        key, value = self.key[:, :, 1:], self.value[:, :, 1:]
        seen = F.scaled_dot_product_attention(key, key, value) + weights[:, None] @ value
        return _join(self._block, seen / 2)

    def _query(self, rows: slice) -> Tensor:
        return _heads(self._block, self._normed[:, rows], 0, 1)[0]

    def _whole(self, query: Tensor, rows: slice) -> Tensor:
        seen = F.scaled_dot_product_attention(query, self.key, self.value)
        return feed(self._block, self._tokens[:, rows] + _join(self._block, seen))


def gaussian_window(
    grid: tuple[int, int], device: torch.device, dtype: torch.dtype, *, sigma: float = SIGMA
) -> Tensor:
    """What NACLIP adds to the arguments of the softmax.

    Args:
        grid: (rows, columns) of N patches.
        device, dtype: where and how it is kept.
        sigma: in patches.

    Returns:
        (N, 1 + N): exp(-|p_i - p_j|^2 / 2 sigma^2) of patches i and j, zero for the class token, which comes
        first.
    """
    rows, columns = (torch.arange(side, dtype=torch.float32, device=device) for side in grid)
    along_rows, along_columns = (
        torch.exp(-((side[:, None] - side) ** 2) / (2 * sigma**2)) for side in (rows, columns)
    )
    count = len(rows) * len(columns)
    stored = torch.zeros(
        count, math.ceil((1 + count) / _ALIGNED) * _ALIGNED, dtype=dtype, device=device
    )  # longer rows than are used, so that each begins where a fused kernel can read it
    stored[:, 1 : 1 + count] = torch.kron(along_rows, along_columns)
    return stored[:, : 1 + count]


def cosines_within(features: Tensor) -> Tensor:
    """Cosines of every patch with every other, float32 even under autocast: (B, N, C) to (B, N, N)."""
    with torch.autocast(features.device.type, enabled=False):
        unit = F.normalize(features.float(), dim=-1)
        return unit @ unit.mT


def affinity_weights(cosines: Tensor, *, beta: float, gamma: float) -> Tensor:
    """Attention from affinities: softmax over gamma (s - beta mean s), where that is not negative.

    ProxyCLIP's equations 4 and 5 (Lan et al. 2024). The mean is over all pairs of one image. Where an image
    is so uniform that not even a patch's affinity with itself is above beta times the mean, the formula
    leaves nothing to see; a patch then attends to itself.

    Args:
        cosines: (B, N, N).
        beta, gamma: see there.

    Returns:
        (B, N, N), rows that sum to 1, in the dtype of `cosines`.
    """
    arguments = (cosines - cosines.mean((1, 2), keepdim=True) * beta) * gamma
    itself = torch.eye(cosines.shape[1], dtype=torch.bool, device=cosines.device)
    return arguments.masked_fill((arguments < 0) & ~itself, -torch.inf).softmax(-1)


def pool(features: Tensor, cosines: Tensor, *, least: float) -> Tensor:
    """Features (B, N, C) averaged over similar patches, weighted by similarity.

    Args:
        features: in any dtype.
        cosines: (B, N, N); those below `least` count as 0.
        least: see there.
    """
    weights = cosines.masked_fill(cosines < least, 0)
    weights = weights / (weights.sum(-1, keepdim=True) + 1e-6)
    return weights.to(features.dtype) @ features


def _heads(block: Any, normed: Tensor, first: int, last: int) -> tuple[Tensor, ...]:
    """Of queries (0), keys (1) and values (2) those from first to before last, each (B, heads, T, d)."""
    attention, width = block.attn, normed.shape[-1]
    rows = slice(first * width, last * width)
    joint = F.linear(normed, attention.in_proj_weight[rows], attention.in_proj_bias[rows])
    return joint.unflatten(-1, (last - first, attention.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def _join(block: Any, heads: Tensor) -> Tensor:
    """(B, heads, T, d) to (B, T, C)."""
    return block.ls_1(block.attn.out_proj(heads.transpose(1, 2).flatten(2)))
