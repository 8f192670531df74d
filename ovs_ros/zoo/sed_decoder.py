"""SED's gradual fusion decoder: from the cosines of patches with prompts to logits at a quarter of the image.

Xie et al., "SED: A Simple Encoder-Decoder for Open-Vocabulary Semantic Segmentation", CVPR 2024, sections 3.3
and 3.4, with the layers of the authors' code. Submodules have the names of its checkpoints. A word is an item
of the batch everywhere but in the class attention, so that the order of words never matters.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovs_ros.zoo.cat_seg_aggregator import DoubleConv
from ovs_ros.zoo.coarse_to_fine.layers import join_heads, linear_attention, split_heads

WIDTHS = (128, 64, 32, 16)
"""Channels of a word's map: of the cost at the patches, then after each of the three stages."""
GUIDANCE = (32, 16, 8)
"""Channels that each stage takes from the image encoder, and as many from the raw cost."""
HEADS = 4
KERNEL = 9


class SedDecoder(nn.Module):
    """The decoder without what only training and early rejection have.

    Args:
        prompts: P, how many prompts each word has.
        stages: channels of the image encoder's maps at strides 16, 8 and 4.
    """

    def __init__(self, prompts: int, stages: Sequence[int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(prompts, WIDTHS[0], 7, padding=3)
        self.decoder_guidance_projection = nn.ModuleList(
            nn.Sequential(nn.Conv2d(given, taken, 3, padding=1), nn.ReLU())
            for given, taken in zip(stages, GUIDANCE, strict=True)
        )
        self.decoder_corr_guidance_projection = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(given, taken, 2, stride=2), nn.ReLU())
            for given, taken in zip((prompts, *GUIDANCE[:-1]), GUIDANCE, strict=True)
        )
        self.decoder1, self.decoder2, self.decoder3 = (
            Stage(width, out, taken)
            for width, out, taken in zip(WIDTHS[:-1], WIDTHS[1:], GUIDANCE, strict=True)
        )
        self.head = nn.Conv2d(WIDTHS[-1], 1, 3, padding=1)

    def guidance(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What the stages take from the image, whatever the words.

        Args:
            maps: the image encoder's (B, C, ., .) at strides 16, 8 and 4.

        Returns:
            (B, 32, 2h, 2w), (B, 16, 4h, 4w) and (B, 8, 8h, 8w).
        """
        return tuple(project(x) for project, x in zip(self.decoder_guidance_projection, maps, strict=True))

    def forward(self, cost: Tensor, guidance: Sequence[Tensor], counts: Tensor) -> Tensor:
        """Decode one image.

        Args:
            cost: (M, P, h, w), cosines of patches with each word's prompts.
            guidance: of that image, see `guidance`.
            counts: (M,) bool, False for words that only fill up: the others do not compete with them.

        Returns:
            (M, 8h, 8w) logits of a sigmoid.
        """
        x = self.conv1(cost)  # (M, 128, h, w)
        stages = (self.decoder1, self.decoder2, self.decoder3)
        projections = self.decoder_corr_guidance_projection
        for stage, project, image in zip(stages, projections, guidance, strict=True):
            cost = project(cost)  # (M, taken, 2h, 2w)
            x = stage(x, image, cost, counts)  # (M, out, 2h, 2w)
        return self.head(x)[:, 0]  # (M, 8h, 8w)


class Stage(nn.Module):
    """One step of the decoder: neighbours, then words, are mixed; the grid is doubled; guidance is added.

    Args:
        width: channels of the input.
        out: channels of the result.
        taken: channels of the image's guidance, and of the cost's.
    """

    def __init__(self, width: int, out: int, taken: int) -> None:
        super().__init__()
        self.cnext = ConvNextBlock(width)
        self.attention = ClassAttention(width)
        self.up = nn.ConvTranspose2d(width, width - taken, 2, stride=2)
        self.conv = DoubleConv(width + taken, out)

    def forward(self, x: Tensor, image: Tensor, cost: Tensor, counts: Tensor) -> Tensor:
        """From x (M, width, h, w), image (1, taken, 2h, 2w) and cost (M, taken, 2h, 2w): (M, out, 2h, 2w)."""
        return self.conv(self.up(self.attention(self.cnext(x), counts)), image, cost)


class ConvNextBlock(nn.Module):
    """ConvNeXt's block (Liu et al. 2022) with a 9 x 9 kernel, over each word's map."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, KERNEL, padding=KERNEL // 2, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pwconv1 = nn.Linear(width, 4 * width)
        self.pwconv2 = nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(M, width, h, w) to the same shape."""
        around = self.norm(self.dwconv(x).permute(0, 2, 3, 1))  # (M, h, w, width)
        mixed = self.gamma * self.pwconv2(F.gelu(self.pwconv1(around)))
        return x + mixed.permute(0, 3, 1, 2)


class ClassAttention(nn.Module):
    """Attention over the words at each square of 2 x 2 positions, which lets them compete."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = LinearAttention(width)
        self.MLP = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, counts: Tensor) -> Tensor:
        """(M, width, h, w) to the same shape; see `SedDecoder.forward` for `counts`."""
        # A last odd row or column, which the authors' 24 x 24 patches never have, makes squares of its own.
        pooled = F.avg_pool2d(x, 2, ceil_mode=True).permute(2, 3, 0, 1)  # (a, b, M, width)
        pooled = pooled + self.attention(self.norm1(pooled), counts)
        pooled = pooled + self.MLP(self.norm2(pooled))
        pooled = pooled.permute(2, 3, 0, 1)  # (M, width, a, b)
        return x + F.interpolate(pooled, size=x.shape[-2:], mode="bilinear", align_corners=True)


class LinearAttention(nn.Module):
    """See `linear_attention`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)

    def forward(self, x: Tensor, counts: Tensor) -> Tensor:
        """(…, M, width) to the same shape; nothing attends to words that do not count, (M,) bool."""
        query, key, value = (split_heads(part(x), HEADS) for part in (self.q, self.k, self.v))
        # Sums over hundreds of words leave the range of half precision.
        with torch.autocast(x.device.type, enabled=False):
            attended = linear_attention(query.float(), key.float(), value.float(), counts[:, None].float())
        return join_heads(attended).to(x.dtype)
