"""Image towers that are a ViT of timm with a class token: MobileCLIP-B, MobileCLIP2-B and -L-14."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovs_ros.encoders.clip.attention import LastLayer, gaussian_window
from ovs_ros.encoders.clip.clip_model import ClipModel, unit
from ovs_ros.encoders.clip.dense_model import TorchFeatures
from ovs_ros.encoders.clip.grid_cache import GridCache
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
        self._made_for = tuple(trunk.patch_embed.grid_size)
        self.stride: int = trunk.patch_embed.img_size[0] // self._made_for[0]
        self._positions = GridCache(self._resampled)

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

    def _resampled(self, grid: tuple[int, int], device: torch.device, dtype: torch.dtype) -> Tensor:
        """The table (N, C) of a grid, after the class token's own row where it has one."""
        table = self._trunk.pos_embed[0]
        if grid != self._made_for:
            extra = len(table) - self._made_for[0] * self._made_for[1]
            laid = table[extra:].float().T.unflatten(1, self._made_for)[None]  # (1, C, rows, columns)
            laid = F.interpolate(laid, grid, mode="bicubic", antialias=True, align_corners=False)
            table = torch.cat([table[:extra], laid[0].flatten(1).T.to(table.dtype)])
        return table.to(device, dtype)


class TimmViT(ClipModel):
    """A ViT of timm with a class token, and a choice of the last layer's attention between patches.

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
        self,
        clip: Any,
        *,
        name: str,
        dim: int,
        attention: Attention = "naclip",
        tokenizer: Callable[[Sequence[str]], Tensor] | None = None,
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
        layer = LastLayer(_as_open_clip(last), tokens)
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


def _as_open_clip(block: Any) -> SimpleNamespace:
    """A block of timm under the names that open_clip gives the same parts."""
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
