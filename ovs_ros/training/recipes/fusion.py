"""How a second image encoder's map is fused into the first's patches (LMSeg), with both encoders frozen.

The loss is a softmax cross entropy of scaled cosines with the set's names at `POSITIONS` positions a patch
side, to which the cosines of the fused patches are interpolated bilinearly.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F

from ovs_ros.encoders.feature_map import FeatureMapEncoder
from ovs_ros.encoders.features import ImageEncoder
from ovs_ros.encoders.fusion import FusionWeights
from ovs_ros.evaluation.labelled_folder import load_labelled_set
from ovs_ros.geometry.resample import bilinear_matrix, resample_bilinear
from ovs_ros.training.data import UNLABELLED, resize_labels
from ovs_ros.training.distributed import Ranks
from ovs_ros.training.loop import Recipe
from ovs_ros.training.options import FusionOptions
from ovs_ros.vocabulary.prompts import embed
from ovs_ros.vocabulary.text_encoder import TextEncoder
from ovs_ros.vocabulary.vocabulary import Vocabulary

POSITIONS = 4
"""Label positions a patch side."""
FILE = "fusion.npz"
"""The file in a run's folder."""


@dataclass(frozen=True, eq=False)
class FusionSample:
    """What fusion learns from one image.

    Attributes:
        first: (h, w, D) float16 unit patches.
        second: (h, w, C) float16, the second map on the same grid.
        label: (4h, 4w) uint8 over the image without padding, indices of names, UNLABELLED where none counts.
        valid: the share (y, x) of the grid that the image covers.
    """

    first: NDArray[np.float16]
    second: NDArray[np.float16]
    label: NDArray[np.uint8]
    valid: tuple[float, float]


class Fusion(nn.Module):
    """F = w F_1 + (1 - w) Proj(F_2), brought back to unit norm (arXiv 2412.00364).

    Given in the paper: the weighted sum, with w learned. Readings: w is the sigmoid of one scalar; Proj is
    one linear layer; unit norm afterwards keeps products with words cosines. Proj
    starts at zero, so that training starts from the first encoder alone.

    Args:
        channels: C of the second encoder's map.
        dim: D, the space shared with words.
        start: w at the start, in (0, 1).
    """

    def __init__(self, channels: int, dim: int, *, start: float = 0.5) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.logit(torch.tensor(start)))
        self.projection = nn.Linear(channels, dim)
        nn.init.zeros_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)

    @property
    def weight(self) -> Tensor:
        """w, a scalar in (0, 1)."""
        return self.mix.sigmoid()

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Fuse two maps on one grid.

        Args:
            first: (…, D) of unit norm.
            second: (…, C), resized to the first's grid.

        Returns:
            (…, D) of unit norm.
        """
        w = self.weight
        return F.normalize(w * first + (1 - w) * self.projection(second), dim=-1)


class FusionRecipe(Recipe):
    """Learn a fusion.

    Args:
        options: how.
        ranks: this process among its fellows.
        samples: at least one.
        words: (M, D) unit embeddings of the labels' names.
        logit_scale: what cosines are multiplied with.
        second: the encoder that is fused in.
    """

    loss_names = ("pixels",)
    model: Fusion

    def __init__(
        self,
        options: FusionOptions,
        ranks: Ranks,
        samples: Sequence[FusionSample],
        words: NDArray[np.float32],
        logit_scale: float,
        second: FeatureMapEncoder,
    ) -> None:
        super().__init__(options, ranks)
        self.samples, self.second = samples, second
        mean, std = map_statistics(samples)
        self.mean, self.std = mean.to(self.device), std.to(self.device)
        counts = np.sum([np.bincount(sample.label.ravel(), minlength=256) for sample in samples], axis=0)
        self.weights = balance(counts[: len(words)]).to(self.device)
        self.words = torch.from_numpy(words * np.float32(logit_scale)).to(self.device)
        self.model = Fusion(len(mean), words.shape[1]).to(self.device)
        self.identity = {"images": len(samples), "words": len(words), "second": second.digest}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """See `Recipe`."""
        rate, projection = self.options.rate, self.model.projection
        return [
            {"params": [projection.weight], "lr": rate, "weight_decay": 0.05},
            {"params": [projection.bias, self.model.mix], "lr": rate, "weight_decay": 0.0},
        ]

    def loss(self, step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """See `Recipe`."""
        chosen = rng.integers(len(self.samples), size=self.options.batch // self.ranks.world)
        return {"pixels": torch.stack([self.sample_loss(self.samples[i]) for i in chosen]).mean()}

    def sample_loss(self, sample: FusionSample) -> Tensor:
        """The loss of one image; padding and unlabelled pixels do not count."""
        first, second = (
            torch.from_numpy(array.astype(np.float32)).to(self.device)
            for array in (sample.first, sample.second)
        )
        with self.autocast():
            cosines = self.model(first, (second - self.mean) / self.std) @ self.words.T  # (h, w, M), scaled
        rows, columns = (
            torch.from_numpy(
                bilinear_matrix(sample.first.shape[a], sample.valid[a], sample.label.shape[a], 1.0).copy()
            ).to(self.device)
            for a in (0, 1)
        )
        logits = torch.einsum("yh,hwm,xw->yxm", rows, cosines.float(), columns)  # (4h, 4w, M)
        target = torch.from_numpy(sample.label.astype(np.int64)).to(self.device)
        total = F.cross_entropy(
            logits.flatten(0, 1),
            target.flatten(),
            weight=self.weights,
            ignore_index=UNLABELLED,
            reduction="sum",
        )
        return total / self.weights[target[target != UNLABELLED]].sum().clamp(min=1e-6)

    def save(self, folder: Path) -> None:
        """Write what `FusedImageEncoder` takes; the map's normalisation is folded into the projection."""
        with torch.no_grad():
            weight = self.model.projection.weight / self.std
            bias = self.model.projection.bias - weight @ self.mean
        FusionWeights(
            float(self.model.weight.detach()),
            np.ascontiguousarray(weight.cpu().numpy().T),
            bias.cpu().numpy(),
            self.second.wanted,
            self.second.digest,
        ).save(folder / FILE)


def read_samples(
    split: Path, first: ImageEncoder, text: TextEncoder, second: FeatureMapEncoder, images: int | None = None
) -> tuple[list[FusionSample], NDArray[np.float32]]:
    """Encode a labelled split.

    Args:
        split: holds image/*, label/*.png (line numbers of classes.txt from 0, 255 ignored).
        first, text: the pair that shares a space with words.
        second: the encoder that is fused in.
        images: at most this many, at even distances; all are held in memory, (D + C) * 2 bytes a patch.

    Returns:
        The samples, and the unit embeddings (M, D) of the class names.

    Raises:
        FileNotFoundError, ValueError: see `load_labelled_set`.
    """
    labelled = load_labelled_set(split)
    if images is not None:
        labelled = labelled.spread(images)
    encoded = (encode_sample(*labelled.read(i), first, second) for i in range(len(labelled)))
    samples = list(track(encoded, total=len(labelled), description="Encoding images"))
    return samples, embed(Vocabulary.from_names(labelled.names), text).embeddings


def encode_sample(
    image: NDArray[np.uint8], label: NDArray[np.uint8], first: ImageEncoder, second: FeatureMapEncoder
) -> FusionSample:
    """Run both encoders on an image (H, W, 3) with labels (H, W)."""
    features, feature_map = first.encode(image), second.encode(image)
    grid = features.patch_tokens.shape[:2]
    on_grid = resample_bilinear(feature_map.values, grid, feature_map.valid, features.valid)  # (h, w, C)
    return FusionSample(
        features.patch_tokens.astype(np.float16),
        on_grid.astype(np.float16),
        resize_labels(label, (grid[1] * POSITIONS, grid[0] * POSITIONS)),
        features.valid,
    )


def map_statistics(samples: Sequence[FusionSample]) -> tuple[Tensor, Tensor]:
    """What the second map is shifted and divided by, (C,) each, to have about unit norm, as the first has.

    Otherwise one step of Adam on hundreds of channels would drown the first map.
    """
    means = np.stack([s.second.mean(axis=(0, 1), dtype=np.float64) for s in samples])
    squares = np.stack([np.square(s.second.astype(np.float32)).mean(axis=(0, 1)) for s in samples])
    mean = means.mean(axis=0)
    std = np.sqrt(np.maximum(squares.mean(axis=0) - mean**2, 1e-6) * len(mean))
    return torch.from_numpy(mean.astype(np.float32)), torch.from_numpy(std.astype(np.float32))


def balance(counts: NDArray[np.intp]) -> Tensor:
    """Weights (K,) that lift rare words: frequency of their pixels to the power -0.35, mean 1 over pixels."""
    share = (counts + 1.0) / (counts + 1.0).sum()
    weight = share**-0.35
    return torch.from_numpy((weight / (weight * share).sum()).clip(0.3, 6.0).astype(np.float32))
