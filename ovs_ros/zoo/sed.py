"""SED: ConvNeXt CLIP and a decoder of the costs of all prompts, filled from the authors' checkpoints.

Xie et al., "SED: A Simple Encoder-Decoder for Open-Vocabulary Semantic Segmentation", CVPR 2024. The authors
resize every image to 768 x 768 pixels; here an image keeps its shape, and any grid of patches goes.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovs_ros.encoders.checkpoint_keys import Rule, map_keys, read_checkpoint
from ovs_ros.encoders.clip.clip_model import ClipModel, unit
from ovs_ros.encoders.clip.dense_model import TorchFeatures
from ovs_ros.encoders.model_file import ModelFile
from ovs_ros.zoo.cat_seg import empty_clip, fill_empty
from ovs_ros.zoo.sed_decoder import SedDecoder

ARCHITECTURES = {"sed-b": "convnext_base_w_320", "sed-l": "convnext_large_d_320"}
"""open_clip's names of the encoders."""
PROMPTS = 80
"""How many prompts a word has: the templates of CLIP for ImageNet, in their order."""
RULES = (
    Rule(r"sem_seg_head\.predictor\.clip_model\.(.+)", r"clip.\1"),
    Rule(r"sem_seg_head\.predictor\.transformer\.(.+)", r"decoder.\1"),
)


class Sed(ClipModel):
    """The inference graph of SED.

    Args:
        clip: a CLIP of open_clip with a ConvNeXt of timm as its image tower.
        name: see `DenseModel`.
        reject_top_k: see `SedDecoder.forward`; 0 off. The authors' fast variant has 8. Where categories were
            selected before, few are left to reject.
    """

    decodes = True
    decode_scale = 8
    keeps_prompts = True

    def __init__(self, clip: Any, *, name: str, reject_top_k: int = 0) -> None:
        super().__init__(clip, name=name, dim=clip.text_projection.shape[-1], stride=32)
        stages = [stage["num_chs"] for stage in clip.visual.trunk.feature_info]  # strides 4, 8, 16, 32
        self.decoder = SedDecoder(PROMPTS, stages[-2::-1])
        self.reject_top_k = reject_top_k
        self.requires_grad_(False).eval()

    def dense(self, images: Tensor) -> TorchFeatures:
        """See `DenseModel.dense`; `decoding` is what `SedDecoder.guidance` gives."""
        trunk, head = self.clip.visual.trunk, self.clip.visual.head
        x = trunk.stem(images)
        maps = []
        for stage in trunk.stages:
            x = stage(x)
            maps.append(x)  # (B, C, ., .) at strides 4, 8, 16 and 32
        x = trunk.norm_pre(x)
        batch, channels, h, w = x.shape
        # The head is of one vector: each position goes through it as an image of one.
        ones = x.permute(0, 2, 3, 1).reshape(-1, channels, 1, 1)  # (B*h*w, C, 1, 1)
        patches = head(trunk.head(ones)).view(batch, h, w, self.dim)
        image = head(trunk.head(x))  # (B, D)
        return TorchFeatures(unit(patches), unit(image), self.decoder.guidance(maps[-2::-1]))

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
        return self.decoder(cost, features.decoding, counts, self.reject_top_k)


def load_sed(file: ModelFile) -> Sed:
    """SED B or L with an official checkpoint's weights, its text tower included.

    Args:
        file: `model` is 'sed-b' or 'sed-l', `weights` the checkpoint's file.

    Raises:
        ValueError: no such model, weights that do not fit it, or another number of templates than PROMPTS.
        FileNotFoundError: no such file.
        ModuleNotFoundError: open_clip is not installed.
    """
    if file.model not in ARCHITECTURES:
        raise ValueError(f"expected {' or '.join(ARCHITECTURES)}, got {file.model!r}")
    if file.templates and len(file.templates) != PROMPTS:
        raise ValueError(
            f"expected {PROMPTS} templates or none for {file.model}, whose decoder has a channel for each, "
            f"got {len(file.templates)}; leave templates out"
        )
    path = Path(file.weights).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"expected the checkpoint of {file.model} as weights in the model file, got {file.weights!r}; on "
            "a machine with a network download the one that the README of https://github.com/xb534/SED links "
            "to, copy it here, and name the file in the model file"
        )
    checkpoint = read_checkpoint(path)
    model = Sed(empty_clip(ARCHITECTURES[file.model]), name=f"{file.model}-{checkpoint.sha256[:12]}")
    fill_empty(model, map_keys(checkpoint, model.state_dict(), RULES))
    return model
