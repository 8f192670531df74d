"""SAN's side adapter: a narrow ViT that reads CLIP's features and proposes masks and attention biases.

Xu et al., "Side Adapter Network for Open-Vocabulary Semantic Segmentation", CVPR 2023, section 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovs_ros.encoders.clip.grid_cache import GridCache, resampled_positions
from ovs_ros.encoders.clip.imports import import_open_clip


@dataclass(frozen=True)
class AdapterConfig:
    """The shape of a side adapter; the defaults are the published one's.

    Attributes:
        width, depth, heads, patch: of its ViT.
        queries: Q, how many masks it proposes.
        grid: side of the square grid that its position embedding was made for.
        channels: E, of the embeddings whose products are masks and biases.
    """

    width: int = 240
    depth: int = 8
    heads: int = 6
    patch: int = 16
    queries: int = 100
    grid: int = 40
    channels: int = 256


class SideAdapter(nn.Module):
    """A ViT over mask queries and patches, to whose patches CLIP's features are added on the way.

    Its parameters have the names of the published checkpoints.

    Args:
        config: its shape.
        clip_width: C, the width of CLIP's blocks.
        clip_heads: H, how many heads CLIP's blocks have.
        fused: how many of CLIP's feature maps are added: one before the first block, one after each of the
            next.
    """

    def __init__(self, config: AdapterConfig, *, clip_width: int, clip_heads: int, fused: int) -> None:
        super().__init__()
        self.query_embed = nn.Parameter(0.02 * torch.randn(1, config.queries, config.width))
        self.query_pos_embed = nn.Parameter(0.02 * torch.randn(1, config.queries, config.width))
        self.vit_model = _PatchTransformer(config)
        self.fusion_layers = nn.ModuleDict(
            {f"layer_{i}": _Fusion(clip_width, config.width) for i in range(fused)}
        )
        self.mask_decoder = _MaskDecoder(config, clip_heads)

    def forward(self, images: Tensor, clip_maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Propose masks.

        Args:
            images: (B, 3, H, W) normalised, H and W multiples of the patch.
            clip_maps: CLIP's feature maps (B, h', w', C) of any grid over the same area, one a fusion.

        Returns:
            (B, Q, h, w) logits of each proposal's mask on the adapter's patches, and (B, H, Q, h, w) what
            each head of CLIP's last blocks adds to its attention to a place.
        """
        vit = self.vit_model
        patches = vit.patch_embed.proj(images)  # (B, width, h, w)
        batch, _, height, width = patches.shape
        queries = self.query_embed.shape[1]
        positions = torch.cat([self.query_pos_embed, vit.positions((height, width), patches)], dim=1)
        tokens = torch.cat([self.query_embed.expand(batch, -1, -1), patches.flatten(2).mT], dim=1)
        tokens = tokens + positions  # (B, Q + h*w, width)
        for i in range(len(vit.blocks) + 1):
            if i > 0:
                tokens = vit.blocks[i - 1](tokens)
            if i < len(self.fusion_layers):
                added = self.fusion_layers[f"layer_{i}"](clip_maps[i], (height, width))  # (B, h*w, width)
                tokens = torch.cat([tokens[:, :queries], tokens[:, queries:] + added], dim=1)
            if 0 < i < len(vit.blocks):
                tokens = tokens + positions
        places = tokens[:, queries:].mT.unflatten(2, (height, width))  # (B, width, h, w)
        return self.mask_decoder(tokens[:, :queries], places)


class _PatchTransformer(nn.Module):
    """A ViT without a class token and without a last norm."""

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        import_open_clip()  # timm imports torchvision too.
        from timm.models.vision_transformer import Block

        norm = partial(nn.LayerNorm, eps=1e-6)
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, config.grid**2, config.width))
        self.patch_embed = nn.ModuleDict(
            {"proj": nn.Conv2d(3, config.width, kernel_size=config.patch, stride=config.patch)}
        )
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, qkv_bias=True, norm_layer=norm) for _ in range(config.depth)
        )
        self._square = (config.grid, config.grid)
        self.positions = GridCache(self._table)

    def _table(self, grid: tuple[int, int], like: Tensor) -> Tensor:
        """(1, N, width): the position embedding, resampled to a grid of N patches."""
        table = self.pos_embed[0].float()
        return resampled_positions(table, self._square, grid, antialias=False).to(like)[None]


class _Fusion(nn.Module):
    """CLIP's features, normalised and brought to the adapter's width and grid."""

    def __init__(self, clip_width: int, width: int) -> None:
        super().__init__()
        self.input_proj = nn.Sequential(
            nn.LayerNorm(clip_width, eps=1e-6), nn.Conv2d(clip_width, width, kernel_size=1)
        )

    def forward(self, clip_map: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, h', w', C) to (B, h*w, width)."""
        norm, project = self.input_proj
        projected = project(norm(clip_map).permute(0, 3, 1, 2))
        return F.interpolate(projected, size=grid, mode="bilinear", align_corners=False).flatten(2).mT


class _MaskDecoder(nn.Module):
    """Masks and biases: products of embeddings of queries and of places."""

    def __init__(self, config: AdapterConfig, clip_heads: int) -> None:
        super().__init__()
        width, channels = config.width, config.channels
        convolution = partial(nn.Conv2d, kernel_size=1)
        self.query_mlp = _Mlp(nn.Linear, width, channels, channels)
        self.pix_mlp = _Mlp(convolution, width, channels, channels)
        self.attn_mlp = _Mlp(convolution, width, channels, channels * clip_heads)
        self.bias_scaling = nn.Linear(1, 1)

    def forward(self, queries: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (B, Q, width) and places (B, width, h, w)."""
        query = self.query_mlp(queries)  # (B, Q, E)
        masks = torch.einsum("bqe,behw->bqhw", query, self.pix_mlp(places))
        keys = self.attn_mlp(places).unflatten(1, (-1, query.shape[2]))  # (B, H, E, h, w)
        biases = torch.einsum("bqe,bnehw->bnqhw", query, keys)
        return masks, biases * self.bias_scaling.weight[0, 0] + self.bias_scaling.bias


class _Mlp(nn.Module):
    """Three affine layers with ReLU between them; `affine` makes one from widths in and out."""

    def __init__(
        self, affine: "type[nn.Linear] | partial[nn.Conv2d]", inputs: int, hidden: int, outputs: int
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList([affine(inputs, hidden), affine(hidden, hidden), affine(hidden, outputs)])

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply the layers."""
        first, second, last = self.layers
        return last(F.relu(second(F.relu(first(inputs)))))
