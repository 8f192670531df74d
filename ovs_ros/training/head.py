"""The head that brings DINOv2's tokens and MiniLM's sentences into one space, in torch."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovs_ros.encoders.embedded import GUIDE

TOKEN_WIDTH, SENTENCE_WIDTH = 4 * 384, 384
SCALE = 4
"""Pixel positions a patch side that logits are computed at."""


class Mixer(nn.Module):
    """A ConvNeXt block over the patch grid: mixes each patch with its neighbours."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.around = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 2 * width)
        self.narrow = nn.Linear(2 * width, width)
        nn.init.zeros_(self.narrow.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) to the same shape."""
        y = self.around(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + self.narrow(F.gelu(self.widen(self.norm(y))))


class Head(nn.Module):
    """Tokens of four layers to unit embeddings of patches and image, and to an upsampling of patch cosines.

    The cosines of the patches with any words are upsampled `SCALE` times: each pixel position takes a convex
    combination of the 3x3 patches around it (RAFT's upsampling, the same for every word), to which a narrow
    detail vector adds what a patch is too coarse for. Neither depends on the vocabulary.
    """

    def __init__(self, *, width: int = 256, dim: int = 256, details: int = 32, mixers: int = 2) -> None:
        super().__init__()
        self.reduce = nn.Linear(TOKEN_WIDTH, width)
        self.mixers = nn.ModuleList(Mixer(width) for _ in range(mixers))
        self.patch = nn.Linear(width, dim)
        self.image = nn.Linear(TOKEN_WIDTH, dim)
        self.spread = nn.Linear(width, SCALE * SCALE * details)
        self.guide = nn.Conv2d(3, 16, GUIDE // SCALE + 2, stride=GUIDE // SCALE, padding=1)
        self.refine = nn.Conv2d(details + 16, details, 3, padding=1)
        self.weights = nn.Conv2d(details, 9, 1)
        self.details = nn.Conv2d(details, details, 1)
        self.detail_words = nn.Linear(dim, details, bias=False)
        self.words = nn.Linear(SENTENCE_WIDTH, dim)
        nn.init.normal_(self.detail_words.weight, std=0.02)

    def embed_words(self, sentences: Tensor) -> Tensor:
        """Sentence embeddings (…, 384) to unit word embeddings (…, D)."""
        return F.normalize(self.words(sentences), dim=-1)

    def patches(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens with the grid laid out.

        Args:
            tokens: (B, h, w, 1536).

        Returns:
            Hidden features (B, h, w, C) and unit embeddings (B, h, w, D).
        """
        x = F.gelu(self.reduce(tokens))
        for mixer in self.mixers:
            x = mixer(x)
        return x, F.normalize(self.patch(x), dim=-1)

    def whole(self, cls: Tensor) -> Tensor:
        """Class tokens (B, 1536) to unit image embeddings (B, D)."""
        return F.normalize(self.image(cls), dim=-1)

    def upsampling(self, hidden: Tensor, guide: Tensor) -> tuple[Tensor, Tensor]:
        """Weights that spread cosines over pixel positions.

        Args:
            hidden: (B, h, w, C) of `patches`.
            guide: (B, 3, 8h, 8w) RGB from 0 to 1.

        Returns:
            Convex weights (B, 9, 4h, 4w) and details (B, details, 4h, 4w).
        """
        x = F.pixel_shuffle(self.spread(hidden).permute(0, 3, 1, 2), SCALE)
        x = torch.cat([x, F.relu(self.guide(guide - 0.5))], dim=1)
        x = F.relu(self.refine(F.relu(x)))
        return self.weights(x).softmax(dim=1), self.details(x)

    def pixel_cosines(self, embeddings: Tensor, weights: Tensor, details: Tensor, words: Tensor) -> Tensor:
        """Cosines (plus details) of every pixel position with words.

        Args:
            embeddings: (B, h, w, D); weights: (B, 9, 4h, 4w); details: (B, details, 4h, 4w).
            words: (M, D).

        Returns:
            (B, M, 4h, 4w).
        """
        batch, h, w, _ = embeddings.shape
        cosines = (embeddings @ words.T).permute(0, 3, 1, 2)  # (B, M, h, w)
        around = F.unfold(F.pad(cosines, (1, 1, 1, 1), mode="replicate"), 3)  # (B, M * 9, h * w)
        around = around.view(batch, -1, 9, h, w).permute(0, 3, 4, 2, 1)  # (B, h, w, 9, M)
        split = weights.view(batch, 9, h, SCALE, w, SCALE).permute(0, 2, 4, 3, 5, 1)
        up = split.reshape(batch, h, w, SCALE * SCALE, 9) @ around  # (B, h, w, 16, M)
        up = up.view(batch, h, w, SCALE, SCALE, -1).permute(0, 5, 1, 3, 2, 4)
        up = up.reshape(batch, -1, h * SCALE, w * SCALE)
        return up + torch.einsum("bfyx,mf->bmyx", details, self.detail_words(words))
