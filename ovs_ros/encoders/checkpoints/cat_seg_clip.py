"""CAT-Seg's CLIP: dense tokens that still lie in the space shared with words, and features of earlier blocks.

S. Cho et al., CAT-Seg: Cost Aggregation for Open-Vocabulary Semantic Segmentation, CVPR 2024, section 3.1 and
its inference code (MIT licence): in the last block a patch passes through the value projection alone, and
what is added to it is the CLS token's row, not its own.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, cat, nn
from torch.nn import functional as F


class ClipTokens(NamedTuple):
    """What the image tower says of B images.

    Attributes:
        patches: (B, h, w, D) dense tokens in the shared space, not normalised.
        image: (B, D) the whole image as CLIP itself embeds it, not normalised.
        levels: (B, C, h, w) each, the patches after the blocks asked for.
    """

    patches: Tensor
    image: Tensor
    levels: tuple[Tensor, ...]


def clip_tokens(visual: nn.Module, images: Tensor, levels: Sequence[int]) -> ClipTokens:
    """Dense tokens of an image tower of open_clip (a `VisionTransformer` with a CLS token).

    Args:
        visual: the tower.
        images: (B, 3, H, W) normalised RGB, H and W multiples of the patch's side.
        levels: indices (from 0) of the blocks whose output is wanted too, not the last one's.
    """
    x = visual.conv1(images)  # (B, C, h, w)
    batch, width, h, w = x.shape
    x = x.flatten(2).transpose(1, 2)  # (B, h*w, C)
    x = cat((visual.class_embedding.to(x.dtype).expand(batch, 1, width), x), dim=1)
    x = visual.ln_pre(x + resized_positions(visual.positional_embedding.float(), (h, w)).to(x.dtype))
    blocks = visual.transformer.resblocks
    kept = {}
    for index in range(len(blocks) - 1):
        x = blocks[index](x)
        if index in levels:
            kept[index] = x[:, 1:].transpose(1, 2).reshape(batch, width, h, w)
    x = _last_block(blocks[-1], x)
    x = visual.ln_post(x) @ visual.proj  # (B, 1 + h*w, D)
    return ClipTokens(x[:, 1:].reshape(batch, h, w, -1), x[:, 0], tuple(kept[index] for index in levels))


def resized_positions(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """Position embeddings of a CLS token and a square grid, (1 + n*n, C), for any grid: (1 + h*w, C).

    Bicubic without antialiasing, as CAT-Seg was trained with; the CLS token keeps its own.
    """
    side = round((len(table) - 1) ** 0.5)
    if grid == (side, side):
        return table
    square = table[1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)  # (1, C, n, n)
    resized = F.interpolate(square, grid, mode="bicubic", align_corners=False)
    return cat((table[:1], resized.flatten(2)[0].T))


def _last_block(block: nn.Module, x: Tensor) -> Tensor:
    """The last block: attention for the CLS token alone, the value path for the patches."""
    y = block.ln_1(x)  # (B, 1 + n, C)
    attention = block.attn
    whole = attention(y[:, :1], y, y, need_weights=False)[0]  # (B, 1, C)
    width = x.shape[2]
    values = F.linear(y[:, 1:], attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :])
    x = cat((whole, attention.out_proj(values)), dim=1) + x[:, :1]
    return x + block.mlp(block.ln_2(x))
