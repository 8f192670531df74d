"""Small models of open_clip's own classes, randomly initialised: quick, and no checkpoint needed."""

import json
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest


def open_clip_or_skip() -> Any:
    """The module `open_clip`; skips the test or the file that asks where it is not installed."""
    if find_spec("torch") is None or find_spec("open_clip") is None:
        pytest.skip("open_clip is not installed (pip install '.[clip]')", allow_module_level=True)
    from ovs_ros.encoders.clip.imports import import_open_clip

    return import_open_clip()


def small_clip(seed: int = 0, **visual: Any) -> tuple[Any, Any]:
    """A CLIP of open_clip with random weights, in evaluation mode, and its tokenizer.

    The image tower is a ViT of 4 layers, width 64 and 4 heads on 64 x 64 pixels in patches of 16 (a 4 x 4
    grid), the text tower has 2 layers of width 64; they share 32 dimensions.

    Args:
        seed: of the weights.
        visual: fields of open_clip's vision configuration that differ, such as image_size=96.
    """
    open_clip = open_clip_or_skip()
    import torch

    vision = {"image_size": 64, "layers": 4, "width": 64, "head_width": 16, "patch_size": 16, **visual}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clip = open_clip.CLIP(32, vision, text)
    clip.requires_grad_(False).eval()
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    open_clip.model.set_model_preprocess_cfg(clip, {"size": vision["image_size"], "mean": mean, "std": std})
    return clip, open_clip.SimpleTokenizer(context_length=text["context_length"])


_TEXT = {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 1}
_SMALL: dict[str, dict[str, Any]] = {
    "vit": {"vision_cfg": {"image_size": 64, "layers": 3, "width": 64, "head_width": 16, "patch_size": 16}},
    "siglip": {
        "vision_cfg": {"timm_model_name": "vit_small_siglip_64", "timm_pool": "map", "timm_proj": "none"},
        "init_logit_bias": -10,
    },
    "mobileclip-vit": {
        "vision_cfg": {"timm_model_name": "vit_base_mci_64", "timm_pool": "token", "timm_proj": None}
    },
    "mobileclip": {
        "vision_cfg": {"timm_model_name": "fastvit_mci_small", "timm_pool": "avg", "timm_proj": None}
    },
    "convnext": {"vision_cfg": {"timm_model_name": "convnext_atto", "timm_pool": "", "timm_proj": "linear"}},
    "convnext-mlp": {"vision_cfg": {"timm_model_name": "convnext_atto", "timm_pool": "", "timm_proj": "mlp"}},
    "eva": {"vision_cfg": {"timm_model_name": "eva02_tiny_patch14_224", "timm_pool": "token"}},
}


def register_small(folder: Path, kind: str, **text: Any) -> str:
    """Make open_clip know a small architecture, so that it is built and loaded as the published ones are.

    Args:
        folder: where its configuration is written.
        kind: 'vit', 'siglip', 'mobileclip', 'mobileclip-vit', 'convnext', 'convnext-mlp' or 'eva'.
        text: fields of open_clip's text configuration that differ.

    Returns:
        the architecture's name.
    """
    open_clip = open_clip_or_skip()
    _register_small_timm()
    config = {"embed_dim": 64, "text_cfg": {**_TEXT, **text}, "custom_text": kind != "vit", **_SMALL[kind]}
    name = f"small-{kind}" + ("-" + "-".join(map(str, text.values())).replace("/", "-") if text else "")
    path = folder / f"{name}.json"
    path.write_text(json.dumps(config))
    open_clip.add_model_config(path)
    return name


def put_in_hub(cache: Path, repository: str, *names: str) -> Path:
    """Files of a repository in a cache folder of huggingface_hub: a snapshot that 'main' refers to.

    Returns:
        the folder with the files.
    """
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text("0123abc")
    snapshot = folder / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True, exist_ok=True)
    for name in names:
        (snapshot / name).write_bytes(b"weights")
    return snapshot


def _register_small_timm() -> None:
    """timm's classes in small: SigLIP's ViT, MobileCLIP's ViT behind convolutions, MobileCLIP's hybrid."""
    import timm
    from timm.models.fastvit import FastVit, RepConditionalPosEnc
    from timm.models.vision_transformer_hybrid import ConvStem, HybridEmbed
    from torch import nn

    if timm.is_model("vit_small_siglip_64"):
        return
    vit = {"img_size": 64, "embed_dim": 64, "depth": 3, "num_heads": 4}

    def vit_small_siglip_64(num_classes: int, global_pool: str, **loading: Any) -> Any:
        options = {"num_classes": num_classes, "global_pool": global_pool, "class_token": False, **vit}
        return timm.models.VisionTransformer(patch_size=16, **options)

    def vit_base_mci_64(num_classes: int, global_pool: str, **loading: Any) -> Any:
        sides = {"stride": (4, 2, 2), "kernel_size": (4, 2, 2), "padding": 0}
        stem = ConvStem(channels=(16, 16, 64), act_layer=nn.GELU, **sides)
        embed = partial(HybridEmbed, backbone=stem, proj=False)
        options = {"num_classes": num_classes, "global_pool": global_pool, "no_embed_class": True, **vit}
        return timm.models.VisionTransformer(patch_size=1, embed_layer=embed, **options)

    def fastvit_mci_small(num_classes: int, global_pool: str, **loading: Any) -> Any:
        return FastVit(
            layers=(1, 1, 1, 1),
            embed_dims=(16, 32, 64, 128),
            token_mixers=("repmixer", "repmixer", "repmixer", "attention"),
            se_downsamples=(False, False, True, True),
            pos_embs=(None, None, None, partial(RepConditionalPosEnc, spatial_shape=(7, 7))),
            lkc_use_act=True,
            num_classes=num_classes,
            global_pool=global_pool,
        )

    for entry in (vit_small_siglip_64, vit_base_mci_64, fastvit_mci_small):
        timm.models.register_model(entry)
