"""Checkpoints of CAT-Seg with the keys and shapes of the published ones, and random values."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_models import open_clip_or_skip

from ovs_ros.zoo import cat_seg
from ovs_ros.zoo.cat_seg import CatSegConfig
from ovs_ros.zoo.cat_seg_aggregator import AggregatorSizes

SMALL_CLIP = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": 4, "width": 64, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2},
    "quick_gelu": True,
}
"""open_clip's configuration of a CLIP that is quick."""
SMALL = CatSegConfig(
    clip="small-cat-seg",
    file="model_base.pth",
    levels=(1, 2),
    resolution=64,
    aggregator=AggregatorSizes(
        hidden=32, guidance=16, decoder=(32, 16), skips=(16, 8), projected_skips=(8, 4), window=3, words=16
    ),
)
"""An architecture of the same parts around it."""


def small_cat_seg(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the small one be 'cat-seg-b', and write a checkpoint for it.

    Returns:
        the checkpoint, in the folder.
    """
    config = folder / f"{SMALL.clip}.json"
    config.write_text(json.dumps(SMALL_CLIP))
    open_clip_or_skip().add_model_config(config)
    monkeypatch.setitem(cat_seg.CONFIGS, "cat-seg-b", SMALL)
    return write_checkpoint(folder, random_tensors())


def write_checkpoint(folder: Path, tensors: dict[str, Any]) -> Path:
    """A file as detectron2 writes it."""
    path = folder / "model_base.pth"
    torch.save({"model": tensors, "iteration": 79999}, path)
    return path


@dataclass(frozen=True)
class ClipSizes:
    """What the shapes of a CLIP's weights follow from."""

    dim: int
    positions: int
    patch: int
    width: int
    layers: int
    text_width: int
    text_layers: int


CLIPS = {
    "small-cat-seg": ClipSizes(32, 16, 16, 64, 4, 64, 2),
    "ViT-B-16-quickgelu": ClipSizes(512, 196, 16, 768, 12, 512, 12),
    "ViT-L-14-336-quickgelu": ClipSizes(768, 576, 14, 1024, 24, 768, 12),
}


def published_keys(config: CatSegConfig) -> dict[str, tuple[int, ...]]:
    """Key by key what the authors' code stores, with shapes; written from its module definitions."""
    s, a = CLIPS[config.clip], config.aggregator
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, out: int, into: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, into), (out,)

    def norm(name: str, width: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (width,), (width,)

    def convolution(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, (shape[0],)

    def transposed(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, (shape[1],)

    def blocks(name: str, count: int, width: int) -> None:
        for i in range(count):
            block = f"{name}.resblocks.{i}"
            for projection in "qkv":
                shapes[f"{block}.attn.{projection}_proj_weight"] = (width, width)
            shapes[f"{block}.attn.in_proj_bias"] = (3 * width,)
            linear(f"{block}.attn.out_proj", width, width)
            norm(f"{block}.ln_1", width)
            linear(f"{block}.mlp.c_fc", 4 * width, width)
            linear(f"{block}.mlp.c_proj", width, 4 * width)
            norm(f"{block}.ln_2", width)

    clip = "sem_seg_head.predictor.clip_model"
    shapes[f"{clip}.positional_embedding"] = (77, s.text_width)
    shapes[f"{clip}.text_projection"] = (s.text_width, s.dim)
    shapes[f"{clip}.logit_scale"] = ()
    shapes[f"{clip}.token_embedding.weight"] = (49408, s.text_width)
    norm(f"{clip}.ln_final", s.text_width)
    blocks(f"{clip}.transformer", s.text_layers, s.text_width)
    shapes[f"{clip}.visual.class_embedding"] = (s.width,)
    shapes[f"{clip}.visual.positional_embedding"] = (s.positions + 1, s.width)
    shapes[f"{clip}.visual.proj"] = (s.width, s.dim)
    shapes[f"{clip}.visual.conv1.weight"] = (s.width, 3, s.patch, s.patch)
    norm(f"{clip}.visual.ln_pre", s.width)
    norm(f"{clip}.visual.ln_post", s.width)
    blocks(f"{clip}.visual.transformer", s.layers, s.width)

    head = "sem_seg_head.predictor.transformer"
    c, g = a.hidden, a.guidance
    for i in range(a.layers):
        swin = f"{head}.layers.{i}.swin_block"
        norm(f"{swin}.guidance_norm", g)
        for block in (f"{swin}.block_1", f"{swin}.block_2"):
            norm(f"{block}.norm1", c)
            linear(f"{block}.attn.q", c, c + g)
            linear(f"{block}.attn.k", c, c + g)
            linear(f"{block}.attn.v", c, c)
            linear(f"{block}.attn.proj", c, c)
            norm(f"{block}.norm2", c)
            linear(f"{block}.mlp.fc1", 4 * c, c)
            linear(f"{block}.mlp.fc2", c, 4 * c)
        shapes[f"{swin}.block_2.attn_mask"] = (4, a.window**2, a.window**2)
        words = f"{head}.layers.{i}.attention"
        shapes[f"{words}.padding_tokens"] = (1, 1, c)
        shapes[f"{words}.padding_guidance"] = (1, 1, g)
        linear(f"{words}.attention.q", c, c + g)
        linear(f"{words}.attention.k", c, c + g)
        linear(f"{words}.attention.v", c, c)
        linear(f"{words}.MLP.0", 4 * c, c)
        linear(f"{words}.MLP.2", c, 4 * c)
        norm(f"{words}.norm1", c)
        norm(f"{words}.norm2", c)
    convolution(f"{head}.conv1", c, 1, 7, 7)
    convolution(f"{head}.guidance_projection.0", g, s.dim, 3, 3)
    linear(f"{head}.text_guidance_projection.0", g, s.dim)
    before = c
    for i, (after, skip, projected) in enumerate(
        zip(a.decoder, a.skips, a.projected_skips, strict=True), start=1
    ):
        convolution(f"{head}.decoder_guidance_projection.{i - 1}.0", projected, skip, 3, 3)
        transposed(f"{head}.decoder{i}.up", before, before - projected, 2, 2)
        conv = f"{head}.decoder{i}.conv.double_conv"
        shapes[f"{conv}.0.weight"] = (after, before, 3, 3)
        norm(f"{conv}.1", after)
        shapes[f"{conv}.3.weight"] = (after, after, 3, 3)
        norm(f"{conv}.4", after)
        transposed(f"upsample{i}", s.width, skip, 2 * i, 2 * i)
        before = after
    convolution(f"{head}.head", 1, before, 3, 3)
    return shapes


def random_tensors() -> dict[str, Any]:
    """Weights of about the size that keeps activations near one, and norms near the identity."""
    stream = np.random.RandomState(0)  # whose numbers are the same in every version of NumPy

    def values(key: str, shape: tuple[int, ...]) -> Any:
        noise = torch.from_numpy(stream.standard_normal(shape or (1,)).reshape(shape).astype(np.float32))
        if len(shape) == 1 and key.endswith("weight"):
            return 1 + 0.1 * noise
        if len(shape) > 1 and "embedding" not in key:
            return noise * noise[0].numel() ** -0.5
        return 0.5 * noise

    tensors = {key: values(key, shape) for key, shape in published_keys(SMALL).items()}
    tensors["sem_seg_head.predictor.clip_model.logit_scale"] = torch.tensor(100.0).log()
    return tensors
