"""CAT-Seg, B and L: CLIP with tuned attention, and a decoder that aggregates its cosines.

S. Cho et al., CAT-Seg: Cost Aggregation for Open-Vocabulary Semantic Segmentation, CVPR 2024. The inference
graph is written anew, without detectron2; the weights are the authors' (see docs/models.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovs_ros.encoders.checkpoints.cat_seg_aggregator import Aggregator, AggregatorSizes, Guidance
from ovs_ros.encoders.checkpoints.cat_seg_clip import clip_tokens
from ovs_ros.encoders.checkpoints.cat_seg_windows import CatSegWindows
from ovs_ros.encoders.checkpoints.keys import Rule, map_keys, read_checkpoint
from ovs_ros.encoders.clip.dense_model import DenseModel, TorchFeatures
from ovs_ros.encoders.clip.imports import import_open_clip
from ovs_ros.encoders.model_file import ModelFile

TEMPLATES = ("A photo of a {} in the scene",)
"""What the text tower was tuned with."""
_CONTEXT = 77
_VOCABULARY = 49408
_RELEASES = "https://huggingface.co/spaces/hamacojr/CAT-Seg-weights/resolve/main/"


@dataclass(frozen=True)
class CatSegSizes:
    """An architecture of CAT-Seg.

    Attributes:
        dim: D, of the shared space.
        image_size: in pixels, of the square that the table of positions is for.
        resolution: in pixels, of the square that the model was trained on.
        patch: side of a patch in pixels.
        width, layers: of the image tower; its heads are `head_width` wide.
        text_width, text_heads, text_layers: of the text tower.
        levels: the blocks (from 0) that guide the decoder.
        aggregator: the widths of the rest.
    """

    dim: int
    image_size: int
    resolution: int
    patch: int
    width: int
    layers: int
    text_width: int
    text_heads: int
    text_layers: int
    levels: tuple[int, int]
    head_width: int = 64
    aggregator: AggregatorSizes = field(default_factory=AggregatorSizes)


SIZES = {
    "cat-seg-b": CatSegSizes(512, 224, 384, 16, 768, 12, 512, 8, 12, (3, 7)),
    "cat-seg-l": CatSegSizes(768, 336, 336, 14, 1024, 24, 768, 12, 12, (7, 15)),
}
FILES = {"cat-seg-b": "model_base.pth", "cat-seg-l": "model_large.pth"}
"""What the authors call their checkpoints."""

_PREDICTOR = r"sem_seg_head\.predictor\."
RULES = (
    Rule(_PREDICTOR + r"clip_model\.(.+\.attn)\.q_proj_weight", r"clip.\1.in_proj_weight", (0, 3)),
    Rule(_PREDICTOR + r"clip_model\.(.+\.attn)\.k_proj_weight", r"clip.\1.in_proj_weight", (1, 3)),
    Rule(_PREDICTOR + r"clip_model\.(.+\.attn)\.v_proj_weight", r"clip.\1.in_proj_weight", (2, 3)),
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


class CatSeg(DenseModel):
    """CAT-Seg as a dense model with a decoder of its own; see `DenseModel`.

    Its logits were trained with a sigmoid and binary cross entropy for each word, and `decode` gives them as
    they are: sigmoid(logit) is what the authors read. A softmax over the words of a vocabulary, as the
    segmenter takes it, keeps the order of words at each pixel and reads the rest as odds among them.

    `logit_scale` is CLIP's, for cosines with patches; what `decode` gives needs none.

    Args:
        sizes: the architecture.
        name: identifies architecture and weights.
    """

    templates = TEMPLATES
    decodes = True

    def __init__(self, sizes: CatSegSizes, name: str) -> None:
        super().__init__()
        open_clip = import_open_clip()
        vision = {
            "image_size": sizes.image_size,
            "patch_size": sizes.patch,
            "width": sizes.width,
            "layers": sizes.layers,
            "head_width": sizes.head_width,
        }
        text = {
            "context_length": _CONTEXT,
            "vocab_size": _VOCABULARY,
            "width": sizes.text_width,
            "heads": sizes.text_heads,
            "layers": sizes.text_layers,
        }
        self.clip = open_clip.CLIP(sizes.dim, vision, text, quick_gelu=True)
        self.upsample1 = nn.ConvTranspose2d(sizes.width, sizes.aggregator.skips[0], 2, stride=2)
        self.upsample2 = nn.ConvTranspose2d(sizes.width, sizes.aggregator.skips[1], 4, stride=4)
        self.aggregator = Aggregator(sizes.dim, sizes.aggregator)
        self.levels = sizes.levels
        self.name = name
        self.dim = sizes.dim
        self.stride = sizes.patch
        self.resolution = sizes.resolution
        self.logit_scale = 1 / 0.07
        self.mean, self.std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
        self._tokenizer = open_clip.SimpleTokenizer(context_length=_CONTEXT)

    def dense(self, images: Tensor) -> TorchFeatures:
        """See `DenseModel`; `decoding` is a `Guidance`. Any grid goes, the model knows 24 x 24."""
        tokens = clip_tokens(self.clip.visual, images, self.levels)
        skips = self.upsample1(tokens.levels[0]), self.upsample2(tokens.levels[1])
        return TorchFeatures(
            F.normalize(tokens.patches, dim=-1),
            F.normalize(tokens.image, dim=-1),
            tuple(self.aggregator.guide(tokens.patches, skips)),
        )

    def decode(self, features: TorchFeatures, words: Tensor) -> Tensor:
        """See `DenseModel`: logits for a sigmoid, on a grid four times as fine as the patches'.

        Each word's logits depend on which others are there. Up to 256 words are as in training; the
        authors' code keeps the best 256 of more, which selection does before anything is decoded.
        """
        words = F.normalize(words.mean(dim=1), dim=-1)  # (M, D)
        return self.aggregator(features.patches[0], words, Guidance(*features.decoding))

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """See `DenseModel`: the tuned text tower, which goes with `TEMPLATES`."""
        tokens = self._tokenizer(list(texts)).to(self.clip.logit_scale.device)  # (N, 77)
        return self.clip.encode_text(tokens, normalize=True)


def load_cat_seg(file: ModelFile) -> CatSeg | CatSegWindows:
    """Open CAT-Seg with the authors' checkpoint.

    Args:
        file: `model` is a key of `SIZES`, `weights` the checkpoint. Where `window` is not 0, the image is
            taken as the authors test it (see `CatSegWindows`).

    Raises:
        FileNotFoundError: there is no checkpoint; the message says how to get it.
        ValueError: the checkpoint does not fit; the message says where.
        ModuleNotFoundError: open_clip is not installed.
    """
    path = Path(file.weights)
    if not path.is_file():
        name = FILES[file.model]
        raise FileNotFoundError(
            f"expected the checkpoint of {file.model} as weights in the model file, got {file.weights!r}; on "
            f"a machine with a network: curl -LO {_RELEASES}{name}; copy it here and write: weights: {name}"
        )
    checkpoint = read_checkpoint(path)
    with torch.device("meta"):
        model = CatSeg(SIZES[file.model], f"{file.model} {checkpoint.sha256[:12]}")
    model.load_state_dict(map_keys(checkpoint, model.state_dict(), RULES, IGNORED), assign=True)
    # The one buffer that no checkpoint has: causal attention in the text tower.
    model.clip.attn_mask = torch.full((_CONTEXT, _CONTEXT), float("-inf")).triu_(1)
    model.requires_grad_(False).eval()
    model.logit_scale = float(model.clip.logit_scale.exp())
    return CatSegWindows(model, model.resolution, file.window, file.stride) if file.window else model
