"""The embedded model in torch: EfficientNet-Lite, a light pyramid decoder, and the words' side over MiniLM.

Images become unit embeddings at stride 8. Their cosines with any words are brought to stride 4 by RAFT's
convex combination of the 3x3 cells around (Teed and Deng 2020, section 3.3), whose weights do not depend on
the words, and a narrow map of details at stride 4 is added:

    logit(p, m) = SCALE * (sum_k w_k(p) e_k . t_m + d(p) . A t_m),

where e_k are the embeddings around p, t_m is the word's, and A is `Words.details`.
"""

from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovs_ros.encoders.embedded import LOGIT_SCALE
from ovs_ros.encoders.minilm import WIDTH
from ovs_ros.training.efficientnet import LAST, Block, Convolution, EfficientNetLite, Pointwise

DIM, DETAILS, HIDDEN = 256, 32, 256
"""Widths of the space of words, of the details, and of the words' residual layer."""
WIDE, NARROW = 192, 128
"""Widths of the decoder at the strides 32 and 16, and at stride 8."""
STRIDE, UP = 8, 2
"""Pixels from one embedding to the next, and logits a side of each."""


class Maps(NamedTuple):
    """What the image side gives of B images of H x W pixels, in float32.

    Attributes:
        image: (B, D) of unit norm.
        embeddings: (B, D, H/8, W/8) of unit norm.
        weights: (B, 9, H/4, W/4), convex over the 9 cells around, row by row.
        details: (B, DETAILS, H/4, W/4).
        hidden: (B, NARROW, H/8, W/8), what the embeddings are made of.
    """

    image: Tensor
    embeddings: Tensor
    weights: Tensor
    details: Tensor
    hidden: Tensor


class Decoder(nn.Module):
    """From the encoder's pyramid to `Maps`.

    Args:
        channels: of the maps at the strides 4, 8, 16 and 32.
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        at4, at8, at16, at32 = channels
        self.deep = Pointwise(at32, WIDE)
        self.classes = Pointwise(LAST, WIDE)
        self.scene = nn.Linear(LAST, WIDE)
        self.mix32 = _mixer(WIDE, 5)
        self.skip16 = Pointwise(at16, WIDE)
        self.mix16 = nn.Sequential(_mixer(WIDE, 5), _mixer(WIDE, 5))
        self.narrow = Pointwise(WIDE, NARROW)
        self.skip8 = Pointwise(at8, NARROW)
        self.mix8 = nn.Sequential(_mixer(NARROW, 3), _mixer(NARROW, 3))
        self.embed = Pointwise(NARROW, DIM)
        self.image = nn.Linear(LAST, DIM)
        self.skip4 = Pointwise(at4, DETAILS)
        self.spread = Pointwise(NARROW, DETAILS)
        self.refine = Convolution(DETAILS, DETAILS, 3)
        self.weights = Pointwise(DETAILS, 9)
        self.details = Pointwise(DETAILS, DETAILS)
        nn.init.zeros_(self.weights.weight)
        with torch.no_grad():
            self.weights.bias.zero_()[4] = 2.0  # At first, mostly the cell itself.

    def forward(self, pyramid: list[Tensor], last: Tensor) -> Maps:
        """Decode.

        Args:
            pyramid: features at the strides 4, 8, 16 and 32.
            last: (B, 1280, H/32, W/32), what the encoder's classifier takes.
        """
        p4, p8, p16, p32 = pyramid
        pooled = last.mean((2, 3))
        x = self.deep(p32) + self.classes(last) + self.scene(pooled)[:, :, None, None]
        x = self.mix32(F.relu6(x))
        x = self.mix16(F.relu6(_doubled(x) + self.skip16(p16)))
        x = self.mix8(F.relu6(_doubled(self.narrow(x)) + self.skip8(p8)))
        y = self.refine(F.relu6(_doubled(self.spread(x)) + self.skip4(p4)))
        return Maps(
            image=F.normalize(self.image(pooled).float(), dim=1),
            embeddings=F.normalize(self.embed(x).float(), dim=1),
            weights=self.weights(y).float().softmax(1),
            details=self.details(y).float(),
            hidden=x.float(),
        )


def _mixer(width: int, kernel: int) -> Block:
    """A residual block that changes nothing at first."""
    block = Block(width, width, kernel, 1, 2)
    nn.init.zeros_(block.project.norm.weight)
    return block


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class Words(nn.Module):
    """From sentence embeddings of MiniLM to the space shared with images: linear, and a residual layer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, DIM)
        self.widen = nn.Linear(WIDTH, HIDDEN)
        self.back = nn.Linear(HIDDEN, DIM)
        self.details = nn.Linear(DIM, DETAILS, bias=False)
        nn.init.zeros_(self.back.weight)
        nn.init.zeros_(self.back.bias)
        nn.init.normal_(self.details.weight, std=0.02)

    def texts(self, sentences: Tensor) -> Tensor:
        """(…, 384) to (…, D), of unit norm."""
        residual = self.back(F.gelu(self.widen(sentences), approximate="tanh"))
        return F.normalize(self.linear(sentences) + residual, dim=-1)

    def forward(self, sentences: Tensor) -> Tensor:
        """Words, each in T templates: (M, T, 384) to (M, D), the means of the texts, of unit norm."""
        return F.normalize(self.texts(sentences).mean(1), dim=-1)


class EmbeddedModel(nn.Module):
    """The trained model. The statistics of the encoder's batch norms stay those of ImageNet.

    Args:
        encoder: with the original weights; a copy without the classifier is trained.
    """

    def __init__(self, encoder: EfficientNetLite) -> None:
        super().__init__()
        self.encoder = deepcopy(encoder)
        del self.encoder.classifier
        self.decoder = Decoder(encoder.channels)
        self.words = Words()

    def forward(self, images: Tensor) -> Maps:
        """RGB (B, 3, H, W) float32 from 0 to 255, H and W multiples of 32."""
        pyramid = self.encoder.pyramid(images)
        maps: Maps = self.decoder(pyramid, self.encoder.head(pyramid[-1]))
        return maps

    def train(self, mode: bool = True) -> "EmbeddedModel":
        """See `nn.Module.train`."""
        super().train(mode)
        self.encoder.eval()
        return self

    def at(self, maps: Maps, places: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (B, P, D) and details (B, P, DETAILS) at chosen positions.

        Args:
            maps: of B images.
            places: (B, P) int64, positions of the grid at stride 4, row by row.
        """
        height, width = maps.embeddings.shape[2:]
        rows, columns = places // (width * UP) // UP, places % (width * UP) // UP
        step = torch.arange(-1, 2, device=places.device)
        near_rows = (rows[..., None, None] + step[:, None]).clamp(0, height - 1)
        near_columns = (columns[..., None, None] + step).clamp(0, width - 1)
        cells = (near_rows * width + near_columns).flatten(2)  # (B, P, 9)
        cells = cells + torch.arange(len(cells), device=places.device)[:, None, None] * (height * width)
        flat = maps.embeddings.permute(0, 2, 3, 1).flatten(0, 2)  # (B * h * w, D)
        near = flat[cells.flatten()].view(*cells.shape, -1)  # (B, P, 9, D)
        weights, details = (
            m.flatten(2).gather(2, places[:, None].expand(-1, m.shape[1], -1)).transpose(1, 2)
            for m in (maps.weights, maps.details)
        )
        return (near * weights[..., None]).sum(2), details

    def logits(self, embeddings: Tensor, details: Tensor, words: Tensor) -> Tensor:
        """Logits (…, M) of what `at` gives, (…, D) and (…, DETAILS), for unit words (M, D)."""
        return LOGIT_SCALE * (embeddings @ words.T + details @ self.words.details(words).T)
