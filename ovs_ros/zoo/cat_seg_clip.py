"""CAT-Seg's CLIP: dense tokens that still lie in the space shared with words, and features of earlier blocks.

S. Cho et al., CAT-Seg: Cost Aggregation for Open-Vocabulary Semantic Segmentation, CVPR 2024, section 3.1 and
its inference code (MIT licence): in the last block a patch passes through the value projection alone, and
what is added to it is the CLS token's row, not its own.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ovs_ros.encoders.clip.attention import LastLayer, attend, feed


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


def embed_patches(visual: Any, images: Tensor, positions: Tensor) -> Tensor:
    """The first block's input (B, 1 + h*w, C), the CLS token first.

    Args:
        visual: an image tower of open_clip (a `VisionTransformer` with a CLS token).
        images: (B, 3, H, W) normalised RGB, H and W multiples of the patch's side.
        positions: (1 + h*w, C), see `resized_positions`.
    """
    patches = visual.conv1(images).flatten(2).mT  # (B, h*w, C)
    first = visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
    return visual.ln_pre(torch.cat((first, patches), dim=1) + positions)


def clip_tokens(visual: Any, x: Tensor, grid: tuple[int, int], levels: Sequence[int]) -> ClipTokens:
    """Dense tokens of an image tower.

    Args:
        visual: as in `embed_patches`.
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


def resized_positions(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """Position embeddings of a CLS token and a square grid, (1 + n*n, C), for any grid: (1 + h*w, C).

    Bicubic without antialiasing, as CAT-Seg was trained with; the CLS token keeps its own.
    """
    side = round((len(table) - 1) ** 0.5)
    if grid == (side, side):
        return table
    square = table[1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)  # (1, C, n, n)
    resized = F.interpolate(square, grid, mode="bicubic", align_corners=False)
    return torch.cat((table[:1], resized.flatten(2)[0].T))
