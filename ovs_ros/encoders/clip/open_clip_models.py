"""From a model file to a model of open_clip with dense features."""

from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ovs_ros.encoders.clip.clip_model import ClipModel
from ovs_ros.encoders.clip.imports import import_open_clip
from ovs_ros.encoders.clip.tokenizer import open_tokenizer
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
        FileNotFoundError: weights or tokenizer are not on this machine; the message has the commands.
        ModuleNotFoundError: open_clip is not installed.
        ValueError: open_clip knows no such architecture, it gives no dense features, the weights do not fit,
            or the attention is not for it.
    """
    kind = _kind(file.model)
    if kind in ("siglip", "convolutional") and file.attention != "naclip":
        raise ValueError(
            f"expected no choice of attention for {file.model}, whose patches have one way into the space of"
            f" words, got {file.attention!r}; leave it out"
        )
    if kind != "ViT" and file.outliers:
        raise ValueError(
            f"expected outliers to be false for {file.model}, got true; only open_clip's own ViTs have them"
        )
    files = find_files(file.model, file.weights, file.cache)
    clip = build_clip(file.model, files.trained)
    load_weights(clip, files)
    name = f"open_clip {file.model} {files.label} {file_digest(files.weights)[:12]}"
    return dense_clip(clip, file, name=name, tokenizer=open_tokenizer(file.model, files.tokenizer))


def dense_clip(clip: Any, file: ModelFile, *, name: str, tokenizer: Any = None) -> ClipModel:
    """Give a model of open_clip the dense features of its kind of image tower.

    Args:
        clip: of the architecture `file.model`.
        file: the attention and its settings.
        name, tokenizer: see `ClipModel`.

    Raises:
        FileNotFoundError: the attention's heads or proxy are missing.
        ValueError: they do not fit.
    """
    kind, dim = _kind(file.model), architecture(file.model)["embed_dim"]
    if kind == "siglip":
        from ovs_ros.encoders.clip.siglip import SigLip

        return SigLip(clip, name=name, dim=dim, tokenizer=tokenizer)
    if kind == "convolutional":
        from timm.utils.model import reparameterize_model

        from ovs_ros.encoders.clip.convolutional import ConvolutionalClip

        # FastViT's parallel branches become one convolution each, which gives the same and is faster.
        clip.visual.trunk = reparameterize_model(clip.visual.trunk.eval(), inplace=True)
        return ConvolutionalClip(clip, name=name, dim=dim, tokenizer=tokenizer)
    if kind == "timm ViT":
        from ovs_ros.encoders.clip.timm_vit import TimmViT

        return TimmViT(clip, name=name, dim=dim, attention=file.attention, tokenizer=tokenizer)
    from ovs_ros.encoders.clip.dinoiser import load_head
    from ovs_ros.encoders.clip.proxy import open_proxy
    from ovs_ros.encoders.clip.vit import OpenClipViT

    heads = file.attention == "dinoiser" and file.heads
    return OpenClipViT(
        clip,
        name=name,
        attention=file.attention,
        outliers=file.outliers,
        proxy=open_proxy(file.proxy) if file.attention == "proxyclip" else None,
        heads=load_head(Path(heads), clip.visual.conv1.out_channels) if heads else None,
        tokenizer=tokenizer,
    )


def build_clip(model: str, trained: Mapping[str, Any] | None = None) -> Any:
    """An architecture of open_clip with random weights, in evaluation mode.

    Args:
        model: its name.
        trained: see `ModelFiles`.
    """
    open_clip, trained = import_open_clip(), trained or {}
    config = architecture(model)
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


def _kind(model: str) -> str:
    """What kind of image tower a model has.

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
        reason = f"nothing is known of how {vision['timm_model_name']} names pixels"
    raise ValueError(
        f"expected an architecture that gives dense features, got {model}: {reason}; take a ViT such as"
        " ViT-B-16, a SigLIP, a ConvNeXt or a MobileCLIP"
    )
