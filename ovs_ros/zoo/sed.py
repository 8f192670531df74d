"""SED: ConvNeXt CLIP and a decoder of the costs of all prompts, filled from the authors' checkpoints.

Xie et al., "SED: A Simple Encoder-Decoder for Open-Vocabulary Semantic Segmentation", CVPR 2024. The authors
resize every image to 768 x 768 pixels; here an image keeps its shape, and any grid of patches goes.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ovs_ros.encoders.checkpoint_keys import Rule
from ovs_ros.encoders.clip.clip_model import without_values
from ovs_ros.encoders.clip.dense_model import TorchFeatures
from ovs_ros.encoders.clip.timm_towers import ConvolutionalClip
from ovs_ros.encoders.model_file import ModelFile
from ovs_ros.zoo.official import empty_clip, fill, find_checkpoint
from ovs_ros.zoo.sed_decoder import SedDecoder

ARCHITECTURES = {"sed-b": "convnext_base_w_320", "sed-l": "convnext_large_d_320"}
"""open_clip's names of the encoders."""
PROMPTS = 80
"""How many prompts a word has: the templates of CLIP for ImageNet, in their order."""
RULES = (
    Rule(r"sem_seg_head\.predictor\.clip_model\.(.+)", r"clip.\1"),
    Rule(r"sem_seg_head\.predictor\.transformer\.(.+)", r"decoder.\1"),
)
IGNORED = (r"sem_seg_head\.predictor\.transformer\.head[012]\..+",)
"""What SED's early rejection of categories goes by: here words are selected before."""


class Sed(ConvolutionalClip):
    """The inference graph of SED.

    Args:
        clip: a CLIP of open_clip with a ConvNeXt of timm as its image tower.
        name: see `DenseModel`.
    """

    decodes = True
    decode_scale = 8
    keeps_prompts = True

    def __init__(self, clip: Any, *, name: str) -> None:
        super().__init__(clip, name=name, dim=clip.text_projection.shape[-1])
        stages = [stage["num_chs"] for stage in clip.visual.trunk.feature_info]  # strides 4, 8, 16, 32
        self.decoder = SedDecoder(PROMPTS, stages[-2::-1])
        self.requires_grad_(False).eval()

    def dense(self, images: Tensor) -> TorchFeatures:
        """See `DenseModel.dense`; `decoding` is what `SedDecoder.guidance` gives."""
        trunk = self.clip.visual.trunk
        x = trunk.stem(images)
        maps = []
        for stage in trunk.stages:
            x = stage(x)
            maps.append(x)  # (B, C, ., .) at strides 4, 8, 16 and 32
        return replace(self.embed_map(trunk.norm_pre(x)), decoding=self.decoder.guidance(maps[-2::-1]))

    def decode(self, features: TorchFeatures, words: Tensor) -> Tensor:
        """See `DenseModel.decode`: the logits of a sigmoid, (M, 8h, 8w).

        Words that are all zero only fill up: those of the others do not depend on them.

        Raises:
            ValueError: words have another number of prompts than PROMPTS.
        """
        if words.shape[1] != PROMPTS:
            raise ValueError(
                f"expected {PROMPTS} prompts for each word, got {words.shape[1]}; embed the words with the "
                f"text encoder of {self.name} and its own templates"
            )
        cost = torch.einsum("hwd,mpd->mphw", features.patches[0], words)
        counts = words[:, 0].abs().amax(dim=1) > 0  # (M,)
        return self.decoder(cost, features.decoding, counts)


def build_sed(name: str) -> Sed:
    """A published network, a key of `ARCHITECTURES`, in which no weight has a value yet."""
    clip = empty_clip(ARCHITECTURES[name])
    with without_values():
        return Sed(clip, name=name)


def load_sed(file: ModelFile) -> Sed:
    """SED B or L with an official checkpoint's weights, its text tower included.

    Args:
        file: `model` is a key of `ARCHITECTURES`, `weights` the checkpoint's file.

    Raises:
        ValueError: weights that do not fit the model, or another number of templates than PROMPTS.
        FileNotFoundError: no such file.
        ModuleNotFoundError: open_clip is not installed.
    """
    if file.templates and len(file.templates) != PROMPTS:
        raise ValueError(
            f"expected {PROMPTS} templates or none for {file.model}, whose decoder has a channel for each, "
            f"got {len(file.templates)}; leave templates out"
        )
    path = find_checkpoint(file, "download the one that the README of https://github.com/xb534/SED links to")
    model = build_sed(file.model)
    fill(model, path, RULES, IGNORED)
    return model
