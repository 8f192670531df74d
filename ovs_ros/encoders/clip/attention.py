"""Variants of the last layer's attention in a CLIP ViT.

CLIP trains only its class token, and its last layer mixes the meaning of patches. These variants replace that
layer's attention without training. With X the layer's input, Q, K, V its queries, keys and values, d a head's
width and O the projection that joins the heads, a *reduced* layer gives O(A V), without the residual and
without the MLP; a *whole* one gives Y + MLP(LN Y) with Y = X + O(A V).

==========  ===========================================================  =======  ==========================
variant     A                                                            layer    paper
==========  ===========================================================  =======  ==========================
plain       softmax(Q K^T / sqrt d)                                      whole    Radford et al. 2021
maskclip    I                                                            reduced  Zhou et al. 2022
sclip       softmax(Q Q^T / sqrt d) + softmax(K K^T / sqrt d)            whole    Wang et al. 2023
clearclip   softmax(Q Q^T / sqrt d)                                      reduced  Lan et al. 2024, ClearCLIP
naclip      softmax(K K^T / sqrt d + exp(-|p_i - p_j|^2 / 2 sigma^2))    reduced  Hajimiri et al. 2024
proxyclip   softmax(gamma (S - beta mean S)), negative arguments out     reduced  Lan et al. 2024, ProxyCLIP
radseg      softmax(10 cos of O(A V)) within each head, negatives out    reduced  RADSeg
==========  ===========================================================  =======  ==========================

Where patches attend to the class token (plain, sclip, clearclip, naclip, radseg) it is one more key, with no
Gaussian. A learned layer scale, where a model has one, stays in a reduced layer.
"""

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ovs_ros.encoders.clip.grid_cache import resampled_positions

SIGMA = 5.0
"""The standard deviation of NACLIP's Gaussian in patches (Hajimiri et al. 2024, section 4.1)."""
BETA, GAMMA = 1.2, 3.0
"""ProxyCLIP's beta (subtracted from affinities, in units of their mean) and gamma (their scale)."""
SHARPNESS = 10.0
"""What RADSeg multiplies cosines with."""
_ALIGNED = 16
"""Fused kernels read masks whose rows begin at multiples of this many numbers, and copy others each time."""


def attend(block: Any, tokens: Tensor) -> Tensor:
    """The first half of a block of open_clip's ViT: tokens (B, T, C) plus their attention."""
    query, key, value = heads_of(block, block.ln_1(tokens), 0, 3)
    return tokens + join_heads(block, F.scaled_dot_product_attention(query, key, value))


def feed(block: Any, tokens: Tensor) -> Tensor:
    """The second half of a block: tokens (B, T, C) plus their MLP."""
    return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))


def embed_patches(visual: Any, images: Tensor, positions: Tensor) -> Tensor:
    """What goes into the first block of open_clip's ViT, the class token first.

    Args:
        visual: open_clip's `VisionTransformer`, with a class token.
        images: (B, 3, H, W) normalised, H and W multiples of the patch's side.
        positions: (1 + N, C).

    Returns:
        (B, 1 + N, C).
    """
    patches = visual.conv1(images).flatten(2).mT  # (B, N, C)
    first = visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
    return visual.ln_pre(torch.cat([first, patches], 1) + positions)


def clip_positions(visual: Any, grid: tuple[int, int], like: Tensor, *, antialias: bool) -> Tensor:
    """The position table (1 + N, C) of open_clip's ViT for any grid; see `resampled_positions`."""
    table = visual.positional_embedding.float()
    return resampled_positions(table, tuple(visual.grid_size), grid, antialias=antialias).to(like)


class LastLayer:
    """The last block on one batch; every variant gives (B, N, C) for the N patches, before the last norm.

    Args:
        block: a ResidualAttentionBlock of open_clip, or the parts of one (see `as_open_clip`).
        tokens: (B, P + N, C), its input: P class tokens and registers, then the patches.
        prefix: P.

    Attributes:
        key, value: (B, heads, P + N, d).
    """

    def __init__(self, block: Any, tokens: Tensor, prefix: int = 1) -> None:
        self._block = block
        self._tokens = tokens
        self._prefix, self._patches = slice(prefix), slice(prefix, None)
        self._normed = block.ln_1(tokens)
        self.key, self.value = heads_of(block, self._normed, 1, 3)

    def first_tokens(self) -> Tensor:
        """The tokens before the patches (B, P, C) as the model itself has them."""
        return self._own(self._prefix)

    def class_token(self) -> Tensor:
        """The class token (B, C) as CLIP itself has it."""
        return self.first_tokens()[:, 0]

    def class_attention(self) -> Tensor:
        """Attention of the class token to each patch, as shares of all patches: (B, heads, N) float32."""
        query = self._query(self._prefix)  # (B, heads, 1, d)
        scores = (query @ self.key[:, :, self._patches].mT)[:, :, 0] / query.shape[-1] ** 0.5
        return scores.float().softmax(-1)

    def plain(self) -> Tensor:
        """CLIP's own patches."""
        return self._own(self._patches)

    def maskclip(self) -> Tensor:
        """Each patch attends only to itself (MaskCLIP)."""
        return join_heads(self._block, self.value[:, :, self._patches])

    def sclip(self) -> Tensor:
        """Query-query and key-key attention (SCLIP's correlative self-attention)."""
        query = self._query(slice(None))
        by_query = F.scaled_dot_product_attention(query[:, :, self._patches], query, self.value)
        by_key = F.scaled_dot_product_attention(self.key[:, :, self._patches], self.key, self.value)
        return self.whole(join_heads(self._block, by_query + by_key))

    def clearclip(self) -> Tensor:
        """Query-query attention (ClearCLIP)."""
        query = self._query(slice(None))
        seen = F.scaled_dot_product_attention(query[:, :, self._patches], query, self.value)
        return join_heads(self._block, seen)

    def naclip(self, window: Tensor) -> Tensor:
        """Key-key attention with a Gaussian around each patch (NACLIP).

        Args:
            window: (N, P + N), see `gaussian_window`; of the dtype of `key`, else it is cast in each frame.
        """
        keys = self.key[:, :, self._patches]
        return join_heads(self._block, F.scaled_dot_product_attention(keys, self.key, self.value, window))

    def given(self, weights: Tensor) -> Tensor:
        """Attention with given weights (B, N, N), the same in every head."""
        value = self.value[:, :, self._patches].transpose(1, 2).flatten(2)  # (B, N, C)
        return self._block.ls_1(self._block.attn.out_proj(weights @ value))

    def mixed(self, weights: Tensor) -> Tensor:
        """The mean of `given` and of key-key attention among patches alone (SC-CLIP)."""
        key, value = self.key[:, :, self._patches], self.value[:, :, self._patches]
        seen = F.scaled_dot_product_attention(key, key, value) + weights[:, None] @ value
        return join_heads(self._block, seen / 2)

    def radseg(self) -> Tensor:
        """Attention by how alike the layer's own attention left tokens, within each head (RADSeg's SCRA)."""
        seen = F.scaled_dot_product_attention(self._query(slice(None)), self.key, self.value)
        joined = self._block.attn.out_proj(seen.transpose(1, 2).flatten(2))  # (B, T, C)
        heads = self.key.shape[1]
        alike = F.normalize(joined.unflatten(-1, (heads, -1)).transpose(1, 2).float(), dim=-1)
        # Products of three axes, as those of four leave views that ONNX lacks.
        alike, value = (part.contiguous().flatten(0, 1) for part in (alike, self.value))  # (B heads, T, d)
        cosines = torch.bmm(alike[:, self._patches], alike.mT)  # (B heads, N, T)
        weights = (cosines * SHARPNESS).masked_fill(cosines < 0, -torch.inf).softmax(-1)
        return join_heads(self._block, torch.bmm(weights.to(value.dtype), value).unflatten(0, (-1, heads)))

    def whole(self, reduced: Tensor) -> Tensor:
        """A reduced layer's patches with the residual and the MLP."""
        return feed(self._block, self._tokens[:, self._patches] + reduced)

    def _query(self, rows: slice) -> Tensor:
        return heads_of(self._block, self._normed[:, rows], 0, 1)[0]

    def _own(self, rows: slice) -> Tensor:
        seen = F.scaled_dot_product_attention(self._query(rows), self.key, self.value)
        return feed(self._block, self._tokens[:, rows] + join_heads(self._block, seen))


def gaussian_window(grid: tuple[int, int], like: Tensor, *, sigma: float = SIGMA, prefix: int = 1) -> Tensor:
    """What NACLIP adds to the arguments of the softmax.

    Args:
        grid: (rows, columns) of N patches.
        like: has the device and the dtype that are wanted.
        sigma: in patches.
        prefix: P, how many tokens come before the patches.

    Returns:
        (N, P + N): exp(-|p_i - p_j|^2 / 2 sigma^2) of patches i and j, zero for the tokens before them.
    """
    rows, columns = (torch.arange(side, dtype=torch.float32, device=like.device) for side in grid)
    along_rows, along_columns = (
        torch.exp(-((side[:, None] - side) ** 2) / (2 * sigma**2)) for side in (rows, columns)
    )
    count = len(rows) * len(columns)
    # Longer rows than are used, so that each begins where a fused kernel can read it.
    width = math.ceil((prefix + count) / _ALIGNED) * _ALIGNED
    stored = torch.zeros(count, width, dtype=like.dtype, device=like.device)
    stored[:, prefix : prefix + count] = torch.kron(along_rows, along_columns)
    return stored[:, : prefix + count]


def cosines_within(features: Tensor) -> Tensor:
    """Cosines of every patch with every other, float32 even under autocast: (B, N, C) to (B, N, N)."""
    with torch.autocast(features.device.type, enabled=False):
        unit = F.normalize(features.float(), dim=-1)
        return unit @ unit.mT


def affinity_weights(cosines: Tensor, *, beta: float, gamma: float) -> Tensor:
    """Attention from affinities: softmax over gamma (s - beta mean s), where that is not negative.

    ProxyCLIP's equations 4 and 5 (Lan et al. 2024). The mean is over all pairs of one image. Where an image
    is so uniform that the formula leaves a patch no key, the patch attends to itself.

    Args:
        cosines: s, (B, N, N).
        beta, gamma: of the formula.

    Returns:
        (B, N, N), rows that sum to 1, in the dtype of `cosines`.
    """
    arguments = (cosines - cosines.mean((1, 2), keepdim=True) * beta) * gamma
    itself = torch.eye(cosines.shape[1], dtype=torch.bool, device=cosines.device)
    return arguments.masked_fill((arguments < 0) & ~itself, -torch.inf).softmax(-1)


def pool(features: Tensor, cosines: Tensor, *, least: float) -> Tensor:
    """Features (B, N, C) averaged over similar patches, weighted by cosines (B, N, N) of at least `least`."""
    weights = cosines.masked_fill(cosines < least, 0)
    weights = weights / (weights.sum(-1, keepdim=True) + 1e-6)
    return weights.to(features.dtype) @ features


def as_open_clip(block: Any) -> SimpleNamespace:
    """A block of timm's VisionTransformer under the names that open_clip gives the same parts."""
    attention = block.attn
    return SimpleNamespace(
        ln_1=block.norm1,
        ls_1=block.ls1,
        ln_2=block.norm2,
        ls_2=block.ls2,
        mlp=block.mlp,
        attn=SimpleNamespace(
            num_heads=attention.num_heads,
            in_proj_weight=attention.qkv.weight,
            in_proj_bias=attention.qkv.bias,
            out_proj=attention.proj,
        ),
    )


def heads_of(block: Any, normed: Tensor, first: int, last: int) -> tuple[Tensor, ...]:
    """Of queries (0), keys (1) and values (2) those from first to before last, each (B, heads, T, d)."""
    attention, width = block.attn, normed.shape[-1]
    rows = slice(first * width, last * width)
    joint = F.linear(normed, attention.in_proj_weight[rows], attention.in_proj_bias[rows])
    return joint.unflatten(-1, (last - first, attention.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def join_heads(block: Any, heads: Tensor) -> Tensor:
    """(B, heads, T, d) to (B, T, C)."""
    return block.ls_1(block.attn.out_proj(heads.transpose(1, 2).flatten(2)))
