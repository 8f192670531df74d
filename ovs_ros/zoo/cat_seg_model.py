"""CAT-Seg: CLIP with tuned attention, and a decoder that aggregates its cosines.

S. Cho et al., CAT-Seg: Cost Aggregation for Open-Vocabulary Semantic Segmentation, CVPR 2024. The inference
graph is written anew, without detectron2.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ovs_ros.encoders.clip.clip_model import ClipModel, unit
from ovs_ros.encoders.clip.dense_model import TorchFeatures
from ovs_ros.encoders.clip.grid_cache import GridCache
from ovs_ros.zoo.cat_seg_aggregator import Aggregator, AggregatorSizes, Guidance
from ovs_ros.zoo.cat_seg_clip import clip_tokens, embed_patches, resized_positions

TEMPLATES = ("A photo of a {} in the scene",)
"""What the text tower was tuned with."""


@dataclass(frozen=True)
class CatSegConfig:
    """One of the published networks.

    Attributes:
        clip: open_clip's name of its CLIP.
        file: what the authors call the checkpoint.
        levels: the blocks (from 0) of the image tower that guide the decoder.
        resolution: in pixels, of the square that it was trained on.
        aggregator: the widths of the rest.
    """

    clip: str
    file: str
    levels: tuple[int, int]
    resolution: int
    aggregator: AggregatorSizes = field(default_factory=AggregatorSizes)


class CatSeg(ClipModel):
    """CAT-Seg as a dense model with a decoder of its own; see `DenseModel`.

    Its logits were trained with a sigmoid and binary cross entropy for each word, and `decode` gives them as
    they are: sigmoid(logit) is what the authors read. A softmax over the words of a vocabulary, as the
    segmenter takes it, keeps the order of words at each pixel and reads the rest as odds among them.

    `logit_scale` is CLIP's, for cosines with patches; what `decode` gives needs none.

    Args:
        clip: a CLIP of open_clip with a ViT as its image tower; it becomes part of the model.
        config: the network.
        name: identifies architecture and weights.
    """

    decodes = True
    decode_scale = 4
    templates = TEMPLATES

    def __init__(self, clip: Any, config: CatSegConfig, name: str) -> None:
        width, dim = clip.visual.proj.shape
        super().__init__(clip, name=name, dim=dim, stride=clip.visual.patch_size[0])
        skips = config.aggregator.skips
        self.upsample1 = nn.ConvTranspose2d(width, skips[0], 2, stride=2)
        self.upsample2 = nn.ConvTranspose2d(width, skips[1], 4, stride=4)
        self.aggregator = Aggregator(dim, config.aggregator)
        self.config = config
        self._positions = GridCache(self._resized_positions)
        self.requires_grad_(False).eval()

    def dense(self, images: Tensor) -> TorchFeatures:
        """See `DenseModel`; `decoding` is a `Guidance`. Any grid works; the model was trained on 24 x 24."""
        visual = self.clip.visual
        grid = images.shape[2] // self.stride, images.shape[3] // self.stride
        tokens = clip_tokens(
            visual, embed_patches(visual, images, self._positions(grid, images)), grid, self.config.levels
        )
        skips = self.upsample1(tokens.levels[0]), self.upsample2(tokens.levels[1])
        guidance = self.aggregator.guide(tokens.patches, skips)
        return TorchFeatures(unit(tokens.patches), unit(tokens.image), tuple(guidance))

    def _resized_positions(self, grid: tuple[int, int], device: torch.device, dtype: torch.dtype) -> Tensor:
        return resized_positions(self.clip.visual.positional_embedding.float(), grid).to(device, dtype)

    def decode(self, features: TorchFeatures, words: Tensor) -> Tensor:
        """See `DenseModel`: logits for a sigmoid, on a grid four times as fine as the patches'.

        Each word's logits depend on which others are there; words of zeros are none, and fill up where a
        fixed number is needed. Up to 256 words are as in training; the authors' code keeps the best 256 of
        more, which selection does before anything is decoded.
        """
        words = unit(words.mean(dim=1))  # (M, D)
        return self.aggregator(features.patches[0], words, Guidance(*features.decoding))
