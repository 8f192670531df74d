"""SAN: a side adapter reads CLIP's features and proposes masks, which CLIP's last blocks name.

Xu et al., "Side Adapter Network for Open-Vocabulary Semantic Segmentation", CVPR 2023 (arXiv 2302.12242).
Words enter in one matrix product at the very end, so that a frame costs the same whatever the vocabulary.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ovs_ros.encoders.checkpoint_keys import Rule
from ovs_ros.encoders.clip.attention import clip_positions, embed_patches, feed, heads_of, join_heads
from ovs_ros.encoders.clip.clip_model import ClipModel, unit, without_values
from ovs_ros.encoders.clip.dense_model import TorchFeatures
from ovs_ros.encoders.clip.grid_cache import GridCache
from ovs_ros.encoders.model_file import ModelFile
from ovs_ros.zoo.official import empty_clip, fill, find_checkpoint
from ovs_ros.zoo.san_adapter import AdapterConfig, SideAdapter

TEMPLATES = (
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
    "a photo of a small {}.",
    "a photo of a medium {}.",
    "a photo of a large {}.",
    "This is a photo of a small {}.",
    "This is a photo of a medium {}.",
    "This is a photo of a large {}.",
    "There is a small {} in the scene.",
    "There is a medium {} in the scene.",
    "There is a large {} in the scene.",
)
"""ViLD's fourteen (Gu et al. 2022), whose mean SAN was trained with."""
_RELEASES = "https://huggingface.co/Mendel192/san/resolve/main/"


@dataclass(frozen=True)
class SanConfig:
    """One of the published networks.

    Attributes:
        clip: open_clip's name of its CLIP.
        fused: after how many of CLIP's blocks its features are taken for the adapter; queries join CLIP after
            the last of them.
        clip_scale: the side of CLIP's input as a share of the adapter's.
        file: what the authors call the checkpoint.
        adapter: the side adapter's shape.
    """

    clip: str
    fused: tuple[int, ...]
    clip_scale: float
    file: str = ""
    adapter: AdapterConfig = field(default_factory=AdapterConfig)


CONFIGS = {
    "san-b": SanConfig("ViT-B-16-quickgelu", (0, 3, 6, 9), 0.5, "san_vit_b_16.pth"),
    "san-l": SanConfig("ViT-L-14-336-quickgelu", (0, 6, 12, 18), 0.7, "san_vit_large_14.pth"),
}
"""The published networks, by a model file's `model`."""


class San(ClipModel):
    """SAN's inference graph around an open_clip CLIP.

    `TorchFeatures.patches` is our reading, for selecting words before they are decoded, since SAN itself has
    no embedding per place: the mean of all proposals' embeddings, weighted by their masks there.

    Args:
        clip: an open_clip.CLIP with a ViT; it becomes part of the model.
        config: the network.
        name: see DenseModel.
    """

    decodes = True
    decode_scale = 4
    templates = TEMPLATES

    def __init__(self, clip: Any, config: SanConfig, name: str) -> None:
        width, dim = clip.visual.proj.shape
        super().__init__(clip, name=name, dim=dim, stride=config.adapter.patch)
        self.config = config
        self.side_adapter_network = SideAdapter(
            config.adapter,
            clip_width=width,
            clip_heads=clip.visual.transformer.resblocks[0].attn.num_heads,
            fused=len(config.fused),
        )
        self.bg_embed = nn.Parameter(torch.randn(1, dim))
        self._windows = GridCache(
            lambda grid, like: pooling_windows(grid, self._clip_grid(grid)).to(like.device)
        )
        self._positions = GridCache(self._table)
        self.requires_grad_(False).eval()

    def dense(self, images: Tensor) -> TorchFeatures:
        """See `DenseModel`. All that does not depend on words happens here.

        `decoding` is (B, Q, D), the proposals' unit embeddings, and (B, Q, 4h, 4w), their masks in [0, 1].
        """
        tokens, maps = self.first_blocks(images)
        masks, biases = self.side_adapter_network(images, maps)
        class_token, queries = self._recognise(tokens, biases)
        coarse = masks.sigmoid()
        patches = torch.einsum("bqhw,bqd->bhwd", coarse, queries)
        height, width = coarse.shape[2:]
        # Before the sigmoid, as in the paper (there to all pixels), which keeps borders sharp.
        fine = F.interpolate(
            masks,
            size=(self.decode_scale * height, self.decode_scale * width),
            mode="bilinear",
            align_corners=False,
        )
        return TorchFeatures(unit(patches), class_token, (queries, fine.sigmoid()))

    def decode(self, features: TorchFeatures, words: Tensor) -> Tensor:
        """Log probabilities: words share each proposal with each other and with 'no object'.

        Args:
            features: of one image.
            words: (M, 1, D), the mean over prompts; rows of zeros fill up and take no share.

        Returns:
            (M, 4h, 4w) float32: log of the proposals' shares for the word, summed with the masks as weights.
            A softmax over words makes them shares of each place.
        """
        queries, masks = (part[0].float() for part in features.decoding)
        words = words[:, 0].float()
        nothing = unit(self.bg_embed.float())
        # In half precision logits would be off by hundredths, and small shares would be zero.
        with torch.autocast(masks.device.type, enabled=False):
            cosines = queries @ torch.cat([words, nothing]).T  # (Q, M + 1)
            real = F.pad(words.square().sum(dim=-1) > 0, (0, 1), value=True)
            scores = (self.logit_scale * cosines).masked_fill(~real, -torch.inf)
            shares = scores.softmax(dim=-1)[:, :-1]
            sums = shares.T @ masks.flatten(1)  # (M, 4h * 4w)
        return sums.clamp_min(torch.finfo(sums.dtype).tiny).log().unflatten(1, masks.shape[1:])

    def first_blocks(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """CLIP's first blocks: their last tokens (B, 1 + h'*w', C) and the maps (B, h', w', C) to fuse."""
        visual, patch = self.clip.visual, self.clip.visual.patch_size[0]
        rows, columns = self._clip_grid((images.shape[2] // self.stride, images.shape[3] // self.stride))
        smaller = F.interpolate(
            images, size=(rows * patch, columns * patch), mode="bilinear", align_corners=False
        )
        tokens = embed_patches(visual, smaller, self._positions((rows, columns), smaller))
        maps = []
        for i in range(self.config.fused[-1] + 1):
            if i > 0:
                tokens = visual.transformer.resblocks[i - 1](tokens)
            if i in self.config.fused:
                maps.append(tokens[:, 1:].unflatten(1, (rows, columns)))
        return tokens, maps

    def _clip_grid(self, grid: tuple[int, int]) -> tuple[int, int]:
        """CLIP's grid beside the adapter's: whole patches over the whole image.

        Where the paper's scale leaves a rest of less than a patch, the authors cut it off.
        """
        scale = self.config.clip_scale * self.stride / self.clip.visual.patch_size[0]
        rows, columns = (max(1, round(side * scale)) for side in grid)
        return rows, columns

    def _table(self, grid: tuple[int, int], like: Tensor) -> Tensor:
        return clip_positions(self.clip.visual, grid, like, antialias=False)

    def _recognise(self, tokens: Tensor, biases: Tensor) -> tuple[Tensor, Tensor]:
        """CLIP's last blocks, with a copy of the class token for each proposal: unit (B, D) and (B, Q, D)."""
        visual = self.clip.visual
        count = biases.shape[2]
        height, width = biases.shape[3:]
        mask = proposal_mask(biases, self._windows((height, width), biases))
        joint = torch.cat([tokens[:, :1].expand(-1, count, -1), tokens], dim=1)
        blocks = visual.transformer.resblocks[self.config.fused[-1] :]
        for i, block in enumerate(blocks):
            joint = guided_block(block, joint, mask, drop_patches=i == len(blocks) - 1)
        embedded = unit(visual.ln_post(joint) @ visual.proj)
        return embedded[:, count], embedded[:, :count]


def proposal_mask(biases: Tensor, windows: Tensor) -> Tensor:
    """What is added to the attention logits of Q proposals' tokens, in every guided block.

    A proposal's token sees itself as a class token does, and patches with its bias, pooled to CLIP's grid by
    the maximum; it sees neither the other proposals' tokens nor the class token (section 3.2).

    Args:
        biases: (B, H, Q, h, w) on the adapter's grid.
        windows: (N, K), which of its h*w places each of CLIP's patches covers; see `pooling_windows`.

    Returns:
        (B, H, Q, Q + 1 + N): proposals, class token, patches.
    """
    batch, heads, count = biases.shape[:3]
    pooled = biases.flatten(3)[..., windows].amax(dim=-1)
    itself = torch.eye(count, count + 1, dtype=biases.dtype, device=biases.device).log()  # 0 and -inf
    return torch.cat([itself.expand(batch, heads, -1, -1), pooled], dim=3)


def pooling_windows(grid: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """The windows of torch's adaptive pooling, as a table; many runtimes pool only where grids divide.

    Args:
        grid: (h, w) that is pooled.
        target: (h', w').

    Returns:
        (h'*w', K) int64, places in h*w; small windows name their last row or column again.
    """
    rows, columns = (_windows_along(*lengths) for lengths in zip(grid, target, strict=True))
    places = rows[:, None, :, None] * grid[1] + columns[None, :, None, :]
    return torch.from_numpy(places.reshape(target[0] * target[1], -1))


def _windows_along(length: int, count: int) -> NDArray[np.int64]:
    """(count, K): the places of `length` that each window covers."""
    place = np.arange(count, dtype=np.int64)
    first, last = place * length // count, -(-(place + 1) * length // count) - 1
    return np.minimum(first[:, None] + np.arange((last - first).max() + 1), last[:, None])


def guided_block(block: Any, tokens: Tensor, mask: Tensor, *, drop_patches: bool) -> Tensor:
    """A block of CLIP over proposals' tokens and an image's; the image's do not see the proposals'.

    Args:
        block: open_clip's residual attention block.
        tokens: (B, Q + 1 + N, C): Q proposals, the class token, N patches.
        mask: (B, H, Q, Q + 1 + N), what is added to the proposals' attention logits.
        drop_patches: leave out the patches, which nothing reads after the last block.

    Returns:
        (B, Q + 1 + N, C), or (B, Q + 1, C) without patches.
    """
    count = mask.shape[2]
    kept = count + 1 if drop_patches else tokens.shape[1]
    query, key, value = heads_of(block, block.ln_1(tokens), 0, 3)
    guided = F.scaled_dot_product_attention(query[:, :, :count], key, value, attn_mask=mask)
    seen = F.scaled_dot_product_attention(query[:, :, count:kept], key[:, :, count:], value[:, :, count:])
    return feed(block, tokens[:, :kept] + join_heads(block, torch.cat([guided, seen], dim=2)))


def build_san(name: str) -> San:
    """A published network, a key of `CONFIGS`, in which no weight has a value yet."""
    clip = empty_clip(CONFIGS[name].clip)
    with without_values():
        return San(clip, CONFIGS[name], name)


def load_san(file: ModelFile) -> San:
    """The network of a model file, with the weights of the authors' checkpoint.

    Args:
        file: `model` is 'san-b' or 'san-l', `weights` the authors' file.

    Raises:
        FileNotFoundError: there is no such checkpoint; the message says how to get it.
        ValueError: it is not this network's; the message names all keys that do not fit.
    """
    path = find_checkpoint(file, f"curl -LO {_RELEASES}{CONFIGS[file.model].file}")
    model = build_san(file.model)
    fill(model, path, rules(model), IGNORED)
    return model


IGNORED = (r"criterion\..*", r"ov_classifier\.attn_mask")
"""Of training, and what open_clip makes itself."""


def rules(model: San) -> list[Rule]:
    """CLIP lies in three parts: its first blocks, the last, which count from 0 again, and its text tower."""
    first = model.config.fused[-1]
    blocks = "clip.visual.transformer.resblocks"
    guided = len(model.clip.visual.transformer.resblocks) - first
    return [
        Rule(r"(side_adapter_network\..*)", r"\1"),
        Rule(r"clip_visual_extractor\.(resblocks\..*)", r"clip.visual.transformer.\1"),
        Rule(r"clip_visual_extractor\.(.*)", r"clip.visual.\1"),
        *(Rule(rf"clip_rec_head\.resblocks\.{i}\.(.*)", rf"{blocks}.{first + i}.\1") for i in range(guided)),
        Rule(r"clip_rec_head\.(ln_post\..*|proj)", r"clip.visual.\1"),
        Rule(r"ov_classifier\.(bg_embed)", r"\1"),
        Rule(r"ov_classifier\.(.*)", r"clip.\1"),
    ]
