"""Image towers of timm: ViTs with a class token, SigLIP's ViTs, and convolutional ones."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovs_ros.encoders.clip.attention import LastLayer, as_open_clip, gaussian_window
from ovs_ros.encoders.clip.clip_model import ClipModel, unit
from ovs_ros.encoders.clip.dense_model import TorchFeatures
from ovs_ros.encoders.clip.grid_cache import GridCache, resampled_positions
from ovs_ros.encoders.model_file import Attention

ATTENTIONS: tuple[Attention, ...] = ("naclip", "maskclip", "sclip", "clearclip", "plain")


class TimmTokens:
    """What goes into the first block of timm's VisionTransformer, for any grid.

    Args:
        trunk: the transformer.

    Raises:
        ValueError: it has registers, rotary positions or none.
    """

    def __init__(self, trunk: Any) -> None:
        if trunk.pos_embed is None or trunk.reg_token is not None or getattr(trunk, "rope", None) is not None:
            raise ValueError(
                "expected a ViT of timm with a position table and without registers, got another; choose"
                " another model"
            )
        self._trunk = trunk
        self._square = tuple(trunk.patch_embed.grid_size)
        self.stride: int = trunk.patch_embed.img_size[0] // self._square[0]
        self._positions = GridCache(self._table)

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised to (B, T, C), the class token first where there is one (T = 1 + N or N)."""
        trunk = self._trunk
        stem = getattr(trunk.patch_embed, "backbone", nn.Identity())
        patches = trunk.patch_embed.proj(stem(images))  # (B, C, h, w)
        positions = self._positions((patches.shape[2], patches.shape[3]), patches)
        tokens = patches.flatten(2).mT  # (B, N, C)
        if trunk.cls_token is None:
            return trunk.norm_pre(tokens + positions)
        first = trunk.cls_token.to(tokens.dtype).expand(len(tokens), 1, -1)
        if trunk.no_embed_class:
            return trunk.norm_pre(torch.cat([first, tokens + positions], 1))
        return trunk.norm_pre(torch.cat([first, tokens], 1) + positions)

    def _table(self, grid: tuple[int, int], like: Tensor) -> Tensor:
        table = self._trunk.pos_embed[0]
        return resampled_positions(table, self._square, grid, antialias=True).to(like)


class TimmViT(ClipModel):
    """A ViT with a class token (MobileCLIP-B, MobileCLIP2-B and -L-14), with a choice of the last layer's
    attention between patches.

    The variants are those of attention.py; the image embedding is the model's own.

    Args:
        clip: a CustomTextCLIP of open_clip with its weights.
        name: identifies architecture and weights; the variant is added.
        dim: D, of the space shared with words.
        attention: one of `ATTENTIONS`.
        tokenizer: see `ClipModel`.

    Raises:
        ValueError: the tower or the attention is another.
    """

    def __init__(
        self, clip: Any, *, name: str, dim: int, attention: Attention = "naclip", tokenizer: Any = None
    ) -> None:
        if attention not in ATTENTIONS:
            raise ValueError(
                f"expected attention to be one of {', '.join(ATTENTIONS)} for a ViT of timm, got"
                f" {attention!r}; the others are for open_clip's own ViTs, such as ViT-B-16"
            )
        tokens = TimmTokens(clip.visual.trunk)
        super().__init__(clip, name=f"{name} {attention}", dim=dim, stride=tokens.stride, tokenizer=tokenizer)
        self._tokens = tokens
        self._attention = attention
        self._windows = GridCache(gaussian_window)

    def dense(self, images: Tensor) -> TorchFeatures:
        """See `DenseModel.dense`."""
        *blocks, last = self.clip.visual.trunk.blocks
        grid = (images.shape[2] // self.stride, images.shape[3] // self.stride)
        tokens = self._tokens(images)  # (B, 1 + N, C)
        for block in blocks:
            tokens = block(tokens)
        layer = LastLayer(as_open_clip(last), tokens)
        if self._attention == "naclip":
            patches = layer.naclip(self._windows(grid, layer.key))
        else:
            patches = getattr(layer, self._attention)()
        return TorchFeatures(
            unit(self._project(patches)).unflatten(1, grid), unit(self._project(layer.class_token()))
        )

    def _project(self, tokens: Tensor) -> Tensor:
        visual = self.clip.visual
        return visual.head(visual.trunk.head(visual.trunk.fc_norm(visual.trunk.norm(tokens))))


class SigLip(ClipModel):
    """SigLIP and SigLIP 2: ViTs without a class token, whose pooling head maps into the space of words.

    A patch's embedding is what the pooling head would give if its attention saw that patch alone: the value's
    projection, the output's projection and the residual MLP. This is MaskCLIP's step (Zhou et al. 2022,
    section 3.2) read for a pooling head, for which neither SigLIP's authors nor MaskCLIP's give a recipe.
    The image embedding is the model's own.

    Args:
        clip: a CustomTextCLIP of open_clip with its weights.
        name: see `DenseModel`.
        dim: D, of the space shared with words.
        tokenizer: see `ClipModel`.

    Raises:
        ValueError: the tower is another.
    """

    def __init__(self, clip: Any, *, name: str, dim: int, tokenizer: Any = None) -> None:
        trunk = clip.visual.trunk
        pool = trunk.attn_pool
        if pool is None or pool.latent_len != 1 or pool.pos_embed is not None or trunk.cls_token is not None:
            raise ValueError(
                "expected a ViT that one query pools by attention, as SigLIP's, got another; choose another"
            )
        tokens = TimmTokens(trunk)
        super().__init__(clip, name=name, dim=dim, stride=tokens.stride, tokenizer=tokenizer)
        self._tokens = tokens

    def dense(self, images: Tensor) -> TorchFeatures:
        """See `DenseModel.dense`."""
        visual = self.clip.visual
        grid = (images.shape[2] // self.stride, images.shape[3] // self.stride)
        tokens = visual.trunk.norm(visual.trunk.blocks(self._tokens(images)))  # (B, N, C)
        return TorchFeatures(
            unit(self._each(tokens)).unflatten(1, grid), unit(visual.head(visual.trunk.forward_head(tokens)))
        )

    def _each(self, tokens: Tensor) -> Tensor:
        """The pooling head over each token alone: (B, N, C) to (B, N, D)."""
        visual, trunk = self.clip.visual, self.clip.visual.trunk
        pool, width = trunk.attn_pool, tokens.shape[-1]
        bias = None if pool.kv.bias is None else pool.kv.bias[width:]
        seen = pool.proj(F.linear(tokens, pool.kv.weight[width:], bias))
        return visual.head(trunk.head(trunk.fc_norm(seen + pool.mlp(pool.norm(seen)))))


class ConvolutionalClip(ClipModel):
    """A convolutional tower (ConvNeXt, or MobileCLIP's FastViT) whose last map is averaged before a head.

    A patch is a position of the last map, and its embedding what the head gives for it alone, normalisation
    included, as SED and FC-CLIP take ConvNeXt's features (Xie et al. 2024, section 3.1; Yu et al. 2023,
    section 3.3). The image embedding is the model's own. Any size works whose sides are multiples of the
    stride.

    Args:
        clip: a CLIP or CustomTextCLIP of open_clip with its weights.
        name: see `DenseModel`.
        dim: D, of the space shared with words.
        tokenizer: see `ClipModel`.
    """

    def __init__(self, clip: Any, *, name: str, dim: int, tokenizer: Any = None) -> None:
        stride = clip.visual.trunk.feature_info[-1]["reduction"]
        super().__init__(clip, name=name, dim=dim, stride=stride, tokenizer=tokenizer)

    def dense(self, images: Tensor) -> TorchFeatures:
        """See `DenseModel.dense`."""
        return self.embed_map(self.clip.visual.trunk.forward_features(images))

    def embed_map(self, last: Tensor) -> TorchFeatures:
        """The tower's last map (B, C, h, w) in the space shared with words."""
        batch, width, *grid = last.shape
        each = last.permute(0, 2, 3, 1).reshape(-1, width, 1, 1)  # every position as a map of its own
        return TorchFeatures(unit(self._head(each)).unflatten(0, (batch, *grid)), unit(self._head(last)))

    def _head(self, maps: Tensor) -> Tensor:
        """Maps (B, C, h, w), averaged, into the space shared with words: (B, D)."""
        return self.clip.visual.head(self.clip.visual.trunk.forward_head(maps))
