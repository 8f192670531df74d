"""open_clip's ViTs with a choice of the last layer's attention."""

from typing import Any, get_args

import torch
from torch import Tensor

from ovs_ros.encoders.clip.attention import (
    BETA,
    GAMMA,
    LastLayer,
    affinity_weights,
    attend,
    clip_positions,
    cosines_within,
    embed_patches,
    feed,
    gaussian_window,
)
from ovs_ros.encoders.clip.clip_model import ClipModel, unit
from ovs_ros.encoders.clip.dense_model import TorchFeatures
from ovs_ros.encoders.clip.dinoiser import LAYER, DinoiserHead
from ovs_ros.encoders.clip.grid_cache import GridCache
from ovs_ros.encoders.clip.imports import import_open_clip
from ovs_ros.encoders.clip.proxy import Proxy
from ovs_ros.encoders.clip.self_calibration import calibrate
from ovs_ros.encoders.model_file import Attention


class OpenClipViT(ClipModel):
    """An open_clip model whose image tower is open_clip's own VisionTransformer, as OpenAI's, LAION's,
    DataComp's, DFN's and MetaCLIP's ViTs are.

    The image embedding is CLIP's own in all variants: `encode_image` of the same pixels. Position tables are
    resampled to any grid.

    Args:
        clip: a CLIP or CustomTextCLIP with its weights.
        name: identifies architecture and weights; the variant is added.
        attention: the last layer's attention between patches (see attention.py).
        proxy: for 'proxyclip'.
        heads: for 'dinoiser'.
        tokenizer: see `ClipModel`.

    Raises:
        ValueError: the image tower is of another kind, or a variant lacks what it needs.
    """

    def __init__(
        self,
        clip: Any,
        *,
        name: str,
        attention: Attention = "naclip",
        proxy: Proxy | None = None,
        heads: DinoiserHead | None = None,
        tokenizer: Any = None,
    ) -> None:
        visual = clip.visual
        _check_tower(visual)
        _check_variant(attention, proxy, heads, visual.conv1.out_channels)
        variant = f"{attention}-{proxy.name}" if attention == "proxyclip" and proxy else attention
        super().__init__(
            clip,
            name=f"{name} {variant}",
            dim=visual.proj.shape[1],
            stride=visual.patch_size[0],
            tokenizer=tokenizer,
        )
        self.heads = heads if attention == "dinoiser" else None
        self._attention = attention
        self._proxy = proxy
        self.capturable = proxy is None  # It runs beside torch.
        self._windows = GridCache(gaussian_window)
        self._positions = GridCache(self._table)

    def dense(self, images: Tensor) -> TorchFeatures:
        """See `DenseModel.dense`."""
        grid = images.shape[2] // self.stride, images.shape[3] // self.stride
        *blocks, last = self.clip.visual.transformer.resblocks
        outputs: list[Tensor] = []
        hidden: Tensor | None = None
        tokens = self.embed(images, grid)  # (B, 1 + N, C)
        for index, block in enumerate(blocks):
            tokens = attend(block, tokens)
            if self.heads is not None and index == len(blocks) + 1 + LAYER:
                hidden = block.ln_2(tokens)[:, 1:].unflatten(1, grid)  # (B, h, w, C)
            tokens = feed(block, tokens)
            if self._attention == "scclip":
                outputs.append(tokens)
        layer = LastLayer(last, tokens)
        patches = calibrate(last, outputs, grid) if outputs else self._patches(layer, images, grid)
        embeddings = self.project(patches)
        if self.heads is not None and hidden is not None:
            embeddings = self.heads.pooled(hidden, embeddings)
        return TorchFeatures(unit(embeddings).unflatten(1, grid), self.pooled(layer))

    def embed(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """What goes into the first block: (B, 3, H, W) normalised to (B, 1 + N, C), the class token first."""
        return embed_patches(self.clip.visual, images, self._positions(grid, images))

    def _table(self, grid: tuple[int, int], like: Tensor) -> Tensor:
        return clip_positions(self.clip.visual, grid, like, antialias=True)

    def pooled(self, layer: LastLayer) -> Tensor:
        """(B, D), as open_clip pools it: the class token, or the mean of the plain patches."""
        visual = self.clip.visual
        if visual.pool_type == "tok":
            return unit(self.project(layer.class_token()))
        patches = layer.plain()
        if visual.final_ln_after_pool:
            return unit(self.project(patches.mean(1)))
        return unit(visual.ln_post(patches).mean(1) @ visual.proj)

    def _patches(self, layer: LastLayer, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, N, C), before `ln_post`."""
        match self._attention:
            case "naclip":
                return layer.naclip(self._windows(grid, layer.key))
            case "proxyclip":
                return layer.given(self._affinities(images, grid))
            case "dinoiser":
                return layer.whole(layer.maskclip())
            case variant:
                patches: Tensor = getattr(layer, variant)()
                return patches

    def _affinities(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """ProxyCLIP's attention (B, N, N). The proxy gets the image before normalisation."""
        assert self._proxy is not None
        mean, std = (
            torch.tensor(values, device=images.device)[:, None, None] for values in (self.mean, self.std)
        )
        features = self._proxy.features(images.float() * std + mean, grid)
        return affinity_weights(cosines_within(features), beta=BETA, gamma=GAMMA).to(images.dtype)

    def project(self, tokens: Tensor) -> Tensor:
        """Into the space shared with words, not yet of unit norm."""
        visual = self.clip.visual
        return visual.ln_post(tokens) @ visual.proj


def _check_tower(visual: Any) -> None:
    transformer = import_open_clip().transformer
    asked = "expected an image tower of the class VisionTransformer of open_clip"
    if not isinstance(visual, transformer.VisionTransformer):
        raise ValueError(f"{asked}, got {type(visual).__name__}; attention can be chosen only for such ViTs")
    if visual.attn_pool is not None or visual.pool_type not in ("tok", "avg"):
        raise ValueError(
            f"{asked} with a class token or a mean over patches, got one that pools by attention, as CoCa's"
            " does: its patches do not share a space with words; choose another model"
        )
    if visual.patch_size[0] != visual.patch_size[1]:
        raise ValueError(f"{asked} with square patches, got {visual.patch_size}; choose another model")
    blocks = visual.transformer.resblocks
    if others := {type(b).__name__ for b in blocks if type(b) is not transformer.ResidualAttentionBlock}:
        raise ValueError(f"{asked} with its usual blocks, got {', '.join(sorted(others))}; choose another")


def _check_variant(attention: str, proxy: Proxy | None, heads: DinoiserHead | None, width: int) -> None:
    known = [variant for variant in get_args(Attention) if variant != "radseg"]  # RADIO's alone
    if attention not in known:
        raise ValueError(f"expected attention to be one of {', '.join(known)}, got {attention!r}")
    if attention == "proxyclip" and proxy is None:
        raise ValueError("expected a proxy encoder for proxyclip, got none; see proxy in the model file")
    if attention == "dinoiser" and (heads is None or heads.obj_proj.in_channels != width):
        got = "none" if heads is None else f"some for {heads.obj_proj.in_channels}"
        raise ValueError(
            f"expected CLIP-DINOiser's heads for a ViT of width {width}, got {got}; name their file as heads"
            " in the model file; the published ones belong to ViT-B-16 with the weights laion2b_s34b_b88k"
        )
