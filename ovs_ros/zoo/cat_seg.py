"""CAT-Seg, B and L: CLIP with tuned attention, and a decoder that aggregates its cosines.

S. Cho et al., CAT-Seg: Cost Aggregation for Open-Vocabulary Semantic Segmentation, CVPR 2024. The inference
graph is written anew, without detectron2, and filled from the authors' checkpoints (docs/guide/models.md says
where they are).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from ovs_ros.encoders.checkpoint_keys import Rule
from ovs_ros.encoders.clip.attention import LastLayer, attend, clip_positions, embed_patches, feed
from ovs_ros.encoders.clip.clip_model import ClipModel, unit, without_values
from ovs_ros.encoders.clip.dense_model import TorchFeatures
from ovs_ros.encoders.clip.grid_cache import GridCache
from ovs_ros.encoders.model_file import ModelFile
from ovs_ros.zoo.cat_seg_aggregator import Aggregator, AggregatorSizes, Guidance
from ovs_ros.zoo.official import empty_clip, fill, find_checkpoint

TEMPLATES = ("A photo of a {} in the scene",)
"""What the text tower was tuned with."""
_RELEASES = "https://huggingface.co/spaces/hamacojr/CAT-Seg-weights/resolve/main/"


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


CONFIGS = {
    "cat-seg-b": CatSegConfig("ViT-B-16-quickgelu", "model_base.pth", (3, 7), 384),
    "cat-seg-l": CatSegConfig("ViT-L-14-336-quickgelu", "model_large.pth", (7, 15), 336),
}
"""The published networks, by a model file's `model`."""
_PREDICTOR = r"sem_seg_head\.predictor\."
RULES = (
    *(
        Rule(_PREDICTOR + rf"clip_model\.(.+\.attn)\.{part}_proj_weight", r"clip.\1.in_proj_weight", (i, 3))
        for i, part in enumerate("qkv")
    ),
    Rule(_PREDICTOR + r"clip_model\.(.+)", r"clip.\1"),
    Rule(_PREDICTOR + r"transformer\.(.+)", r"aggregator.\1"),
    Rule(r"(upsample[12]\..+)", r"\1"),
)
IGNORED = (
    # Masks of shifted windows, for a grid of 24 x 24: they are made for each grid here.
    _PREDICTOR + r"transformer\.layers\.\d+\.swin_block\.block_\d\.attn_mask",
    # Constants of the image's normalisation, which old versions of the code stored.
    r"(clip_)?pixel_(mean|std)",
)


class CatSeg(ClipModel):
    """CAT-Seg as a dense model with a decoder of its own; see `DenseModel`.

    Its logits were trained with a sigmoid and binary cross entropy for each word, and `decode` gives them as
    they are: sigmoid(logit) is what the authors read. The segmenter's softmax over words keeps the order of
    words at each pixel. `logit_scale` is CLIP's, for cosines with patches; what `decode` gives needs none.

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
        self._positions = GridCache(self._table)
        self.requires_grad_(False).eval()

    def dense(self, images: Tensor) -> TorchFeatures:
        """See `DenseModel`; `decoding` is a `Guidance`. Any grid works; the model was trained on 24 x 24."""
        visual = self.clip.visual
        grid = images.shape[2] // self.stride, images.shape[3] // self.stride
        embedded = embed_patches(visual, images, self._positions(grid, images))
        tokens = clip_tokens(visual, embedded, grid, self.config.levels)
        skips = self.upsample1(tokens.levels[0]), self.upsample2(tokens.levels[1])
        guidance = self.aggregator.guide(tokens.patches, skips)
        return TorchFeatures(unit(tokens.patches), unit(tokens.image), tuple(guidance))

    def _table(self, grid: tuple[int, int], like: Tensor) -> Tensor:
        # Without antialiasing, as CAT-Seg was trained.
        return clip_positions(self.clip.visual, grid, like, antialias=False)

    def decode(self, features: TorchFeatures, words: Tensor) -> Tensor:
        """See `DenseModel`: logits for a sigmoid, on a grid four times as fine as the patches'.

        Each word's logits depend on which others are there; words of zeros are none, and fill up where a
        fixed number is needed. Up to 256 words are as in training; the authors' code keeps the best 256 of
        more, which selection does before anything is decoded.
        """
        words = unit(words.mean(dim=1))  # (M, D)
        return self.aggregator(features.patches[0], words, Guidance(*features.decoding))


class ClipTokens(NamedTuple):
    """The image tower's output for B images.

    Attributes:
        patches: (B, h, w, D) dense tokens in the shared space, not normalised.
        image: (B, D) the whole image as CLIP itself embeds it, not normalised.
        levels: (B, C, h, w) each, the patches after the blocks asked for.
    """

    patches: Tensor
    image: Tensor
    levels: tuple[Tensor, ...]


def clip_tokens(visual: Any, x: Tensor, grid: tuple[int, int], levels: Sequence[int]) -> ClipTokens:
    """Dense tokens of an image tower that still lie in the space shared with words.

    Section 3.1 and the inference code (MIT licence): in the last block a patch passes through the value
    projection alone, and what is added to it is the CLS token's row, not its own.

    Args:
        visual: an image tower of open_clip (a `VisionTransformer` with a CLS token).
        x: (B, 1 + h*w, C), what `embed_patches` gave.
        grid: (h, w).
        levels: indices (from 0) of the blocks whose output is wanted too, not the last one's.
    """
    *blocks, last = visual.transformer.resblocks
    kept = {}
    for index, block in enumerate(blocks):
        x = feed(block, attend(block, x))
        if index in levels:
            kept[index] = x[:, 1:].mT.unflatten(2, grid)
    layer = LastLayer(last, x)
    patches = feed(last, x[:, :1] + layer.maskclip())  # (B, h*w, C)
    patches, image = (visual.ln_post(tokens) @ visual.proj for tokens in (patches, layer.class_token()))
    return ClipTokens(patches.unflatten(1, grid), image, tuple(kept[index] for index in levels))


def build_cat_seg(name: str) -> CatSeg:
    """A published network, a key of `CONFIGS`, in which no weight has a value yet."""
    clip = empty_clip(CONFIGS[name].clip)
    with without_values():
        return CatSeg(clip, CONFIGS[name], name)


def load_cat_seg(file: ModelFile) -> CatSeg:
    """The network of a model file, with the authors' checkpoint, its text tower included.

    Args:
        file: `model` is a key of `CONFIGS`, `weights` the checkpoint.

    Raises:
        FileNotFoundError: there is no checkpoint; the message says how to get it.
        ValueError: the checkpoint does not fit; the message says where.
        ModuleNotFoundError: open_clip is not installed.
    """
    path = find_checkpoint(file, f"curl -LO {_RELEASES}{CONFIGS[file.model].file}")
    model = build_cat_seg(file.model)
    fill(model, path, RULES, IGNORED)
    return model
