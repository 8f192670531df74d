"""Small models of open_clip's own classes, randomly initialised: quick, and no checkpoint needed."""

from importlib.util import find_spec
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
