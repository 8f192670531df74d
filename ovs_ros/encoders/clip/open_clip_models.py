"""From a model file to a model of open_clip with dense features."""

from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ovs_ros.encoders.clip.clip_model import ClipModel
from ovs_ros.encoders.clip.dinoiser import DinoiserHead, load_head
from ovs_ros.encoders.clip.imports import import_open_clip
from ovs_ros.encoders.clip.proxy import Proxy, open_proxy
from ovs_ros.encoders.clip.timm_towers import ConvolutionalClip, SigLip, TimmViT
from ovs_ros.encoders.clip.tokenizer import open_tokenizer
from ovs_ros.encoders.clip.vit import OpenClipViT
from ovs_ros.encoders.clip.weights import architecture, find_files, load_weights
from ovs_ros.encoders.model_file import ModelFile
from ovs_ros.runtime.files import file_digest

_TOWERS = {
    "convnext_*": "convolutional",
    "fastvit_*": "convolutional",
    "vit_*_siglip_*": "siglip",
    "vit_base_mci_*": "timm ViT",
    "vit_*_clip_*": "timm ViT",
}
"""Kinds of image towers by timm's names of them."""


def load_open_clip(file: ModelFile) -> ClipModel:
    """Build an architecture of open_clip and fill it with local weights; nothing is downloaded.

    Raises:
        FileNotFoundError: weights, tokenizer, heads or proxy are not on this machine; the message has the
            commands.
        ModuleNotFoundError: open_clip is not installed.
        ValueError: open_clip knows no such architecture, it gives no dense features, the weights do not fit,
            or the attention is not for it.
    """
    if tower_kind(file.model) in ("siglip", "convolutional") and file.attention != "naclip":
        raise ValueError(
            f"expected no choice of attention for {file.model}, whose patches have one way into the space of"
            f" words, got {file.attention!r}; leave it out"
        )
    files = find_files(file.model, file.weights, file.cache)
    clip = build_clip(file.model, files.trained)
    load_weights(clip, files)
    width = getattr(getattr(clip.visual, "conv1", None), "out_channels", 0)
    digest = file_digest(files.weights)[:12]
    model = dense_clip(
        clip,
        file,
        name=f"open_clip {file.model} {files.label} {digest}",
        tokenizer=open_tokenizer(file.model, files.tokenizer),
        proxy=open_proxy(file.proxy) if file.attention == "proxyclip" else None,
        heads=load_head(Path(file.heads), width) if file.attention == "dinoiser" and file.heads else None,
    )
    model.digest = digest
    return model


def dense_clip(
    clip: Any,
    file: ModelFile,
    *,
    name: str,
    tokenizer: Any = None,
    proxy: Proxy | None = None,
    heads: DinoiserHead | None = None,
) -> ClipModel:
    """Give a model of open_clip the dense features of its kind of image tower.

    Args:
        clip: of the architecture `file.model`.
        file: names the attention.
        name, tokenizer: see `ClipModel`.
        proxy, heads: see `OpenClipViT`.

    Raises:
        ValueError: they do not fit.
    """
    kind, dim = tower_kind(file.model), architecture(file.model)["embed_dim"]
    if kind == "siglip":
        return SigLip(clip, name=name, dim=dim, tokenizer=tokenizer)
    if kind == "convolutional":
        from timm.utils.model import reparameterize_model

        # FastViT's parallel branches become one convolution each, which gives the same and is faster.
        clip.visual.trunk = reparameterize_model(clip.visual.trunk.eval(), inplace=True)
        return ConvolutionalClip(clip, name=name, dim=dim, tokenizer=tokenizer)
    if kind == "timm ViT":
        return TimmViT(clip, name=name, dim=dim, attention=file.attention, tokenizer=tokenizer)
    return OpenClipViT(
        clip, name=name, attention=file.attention, proxy=proxy, heads=heads, tokenizer=tokenizer
    )


def build_clip(model: str, trained: Mapping[str, Any] | None = None) -> Any:
    """An architecture of open_clip by name, see `make_clip`."""
    return make_clip(architecture(model), trained or {})


def make_clip(config: dict[str, Any], trained: Mapping[str, Any]) -> Any:
    """A model of open_clip with random weights, in evaluation mode.

    Args:
        config: open_clip's configuration; changed.
        trained: see `ModelFiles`.
    """
    open_clip = import_open_clip()
    if "quick_gelu" in trained:
        config["quick_gelu"] = trained["quick_gelu"]
    if "timm_model_name" in config["vision_cfg"]:
        config["vision_cfg"]["timm_model_pretrained"] = False  # otherwise timm downloads them
    kind = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    clip = kind(**config).requires_grad_(False).eval()
    open_clip.model.set_model_preprocess_cfg(
        clip,
        {
            "size": config["vision_cfg"].get("image_size", 224),
            "mean": trained.get("mean", open_clip.OPENAI_DATASET_MEAN),
            "std": trained.get("std", open_clip.OPENAI_DATASET_STD),
        },
    )
    return clip


def tower_kind(model: str) -> str:
    """What kind of image tower a model has: 'ViT' (open_clip's own), 'timm ViT', 'siglip' or 'convolutional'.

    Raises:
        ValueError: open_clip knows no such model, or it gives no dense features here.
    """
    config = architecture(model)
    vision, text = config["vision_cfg"], config["text_cfg"]
    if "multimodal_cfg" in config:
        reason = "CoCa pools by attention into a space of its own"
    elif "hf_model_name" in text:
        reason = "its text tower is one of the package transformers"
    elif isinstance(vision.get("layers"), list):
        reason = "its ResNet pools by attention with a position table of one size"
    elif "timm_model_name" not in vision:
        return "ViT"
    else:
        for pattern, kind in _TOWERS.items():
            if fnmatch(vision["timm_model_name"], pattern):
                return kind
        reason = f"{vision['timm_model_name']} has no known way from its features to pixels"
    raise ValueError(
        f"expected an architecture that gives dense features, got {model}: {reason}; take a ViT such as"
        " ViT-B-16, a SigLIP, a ConvNeXt or a MobileCLIP"
    )
