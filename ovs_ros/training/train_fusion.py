"""Learn how a second image encoder's map is fused into the first's patches, with both encoders frozen.

The loss is a softmax cross entropy of scaled cosines with the set's names at `POSITIONS` positions a patch
side, to which the cosines of the fused patches are interpolated bilinearly.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from ovs_ros.encoders.feature_map import FeatureMapEncoder
from ovs_ros.encoders.features import ImageEncoder
from ovs_ros.encoders.fusion import FusionWeights
from ovs_ros.geometry.resample import bilinear_matrix, resample_bilinear
from ovs_ros.runtime.images import read_image
from ovs_ros.training.data import IGNORE, LabelledImage, labelled_images, read_names, resize_labels
from ovs_ros.training.networks.fusion_network import Fusion
from ovs_ros.training.token_cache import read_grey
from ovs_ros.vocabulary.prompts import embed
from ovs_ros.vocabulary.text_encoder import TextEncoder
from ovs_ros.vocabulary.vocabulary import Vocabulary

POSITIONS = 4
"""Label positions a patch side."""
BALANCE = -0.35
"""Classes weigh their frequency to this power, as when the head was trained."""


@dataclass(frozen=True)
class FusionOptions:
    """How fusion is trained.

    Attributes:
        steps, batch: how long, and how many images a step.
        rate: peak learning rate; it rises over a twentieth of the steps and falls as a cosine.
        decay: weight decay of Proj.
        seed: of the order of images.
    """

    steps: int = 600
    batch: int = 8
    rate: float = 3e-4
    decay: float = 0.05
    seed: int = 0


@dataclass(frozen=True, eq=False)
class FusionSample:
    """What fusion learns from one image.

    Attributes:
        first: (h, w, D) float16 unit patches.
        second: (h, w, C) float16, the second map on the same grid.
        label: (4h, 4w) uint8 over the image without padding, indices of names, IGNORE where none counts.
        valid: the share (y, x) of the grid that the image covers.
    """

    first: NDArray[np.float16]
    second: NDArray[np.float16]
    label: NDArray[np.uint8]
    valid: tuple[float, float]


def split_files(split: Path, images: int | None) -> tuple[list[LabelledImage], list[str]]:
    """A labelled split's files, at most `images` of them at even distances, and its class names.

    Raises:
        FileNotFoundError: no images, no labels, or no classes.txt in the folder or the one above.
    """
    classes = next((p for p in (split / "classes.txt", split.parent / "classes.txt") if p.is_file()), None)
    if classes is None:
        raise FileNotFoundError(f"expected classes.txt in {split} or above it, found none; one name a line")
    found = labelled_images(split)
    if images is not None and images < len(found):
        found = [found[i] for i in np.linspace(0, len(found) - 1, images).round().astype(int)]
    return found, read_names(classes)


def encode_samples(
    files: Sequence[LabelledImage], first: ImageEncoder, second: FeatureMapEncoder
) -> Iterator[FusionSample]:
    """Run both encoders on images with labels."""
    for file in files:
        image = read_image(file.image)
        features, feature_map = first.encode(image), second.encode(image)
        rows, columns = features.patch_tokens.shape[:2]
        on_grid = resample_bilinear(
            feature_map.values, (rows, columns), feature_map.valid, features.valid
        )  # (h, w, C)
        size = (columns * POSITIONS, rows * POSITIONS)
        yield FusionSample(
            features.patch_tokens.astype(np.float16),
            on_grid.astype(np.float16),
            resize_labels(read_grey(file.label), size),
            features.valid,
        )


def learn(
    samples: Sequence[FusionSample], words: NDArray[np.float32], scale: float, options: FusionOptions
) -> tuple[Fusion, list[float]]:
    """Learn a fusion.

    Args:
        samples: at least one.
        words: (M, D) unit embeddings of the labels' names.
        scale: what cosines are multiplied with.
        options: how long and how fast.

    Returns:
        The fusion, which takes the second map as its encoder gives it, and the loss of each step.
    """
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    mean, std = _statistics(samples)
    fusion = Fusion(len(mean), words.shape[1])
    balance = _balance(samples, len(words))
    table = torch.from_numpy(words * np.float32(scale))
    groups = [
        {"params": [fusion.projection.weight], "weight_decay": options.decay},
        {"params": [fusion.projection.bias, fusion.mix], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=options.rate)
    losses = []
    for step in track(range(options.steps), description="Training the fusion"):
        rise = min(1.0, (step + 1) / max(1, options.steps // 20))
        for group in optimiser.param_groups:
            group["lr"] = options.rate * rise * 0.5 * (1 + math.cos(math.pi * step / options.steps))
        chosen = rng.integers(len(samples), size=options.batch)
        loss = torch.stack([_loss(fusion, samples[i], mean, std, table, balance) for i in chosen]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    with torch.no_grad():  # Fold the normalisation in, so that run time does without it.
        fusion.projection.weight /= std
        fusion.projection.bias -= fusion.projection.weight @ mean
    return fusion.eval(), losses


def train_fusion(
    split: Path,
    first: ImageEncoder,
    text: TextEncoder,
    second: FeatureMapEncoder,
    options: FusionOptions,
    *,
    images: int | None = None,
) -> tuple[FusionWeights, list[float]]:
    """Encode a labelled split and learn a fusion from it.

    Args:
        split: holds image/*, label/*.png (line numbers of classes.txt from 0, 255 ignored).
        first, text: the pair that shares a space with words.
        second: the encoder that is fused in.
        options: how long and how fast.
        images: at most this many; all are held in memory, (D + C) * 2 bytes a patch.

    Returns:
        What `FusedImageEncoder` takes, and the loss of each step.

    Raises:
        FileNotFoundError: files are missing.
        ValueError: files are of another kind.
    """
    files, names = split_files(split, images)
    encoded = encode_samples(files, first, second)
    samples = list(track(encoded, total=len(files), description="Encoding images"))
    words = embed(Vocabulary.from_names(names), text).embeddings
    fusion, losses = learn(samples, words, first.logit_scale, options)
    return (
        FusionWeights(
            fusion.weight.detach().numpy(),
            np.ascontiguousarray(fusion.projection.weight.detach().numpy().T),
            fusion.projection.bias.detach().numpy(),
            second.wanted,
            second.digest,
        ),
        losses,
    )


def _loss(
    fusion: Fusion, sample: FusionSample, mean: Tensor, std: Tensor, words: Tensor, balance: Tensor
) -> Tensor:
    first = torch.from_numpy(sample.first.astype(np.float32))
    second = (torch.from_numpy(sample.second.astype(np.float32)) - mean) / std
    cosines = fusion(first, second) @ words.T  # (h, w, M), scaled
    rows, columns = (
        torch.from_numpy(
            bilinear_matrix(sample.first.shape[a], sample.valid[a], sample.label.shape[a], 1.0).copy()
        )
        for a in (0, 1)
    )
    logits = torch.einsum("yh,hwm,xw->yxm", rows, cosines, columns)  # (4h, 4w, M)
    target = torch.from_numpy(sample.label.astype(np.int64))
    total = F.cross_entropy(
        logits.flatten(0, 1), target.flatten(), weight=balance, ignore_index=IGNORE, reduction="sum"
    )
    return total / balance[target[target != IGNORE]].sum().clamp(min=1e-6)


def _statistics(samples: Sequence[FusionSample]) -> tuple[Tensor, Tensor]:
    """What the second map is shifted and divided by, (C,) each, to have about unit norm, as the first has.

    Otherwise one step of Adam on hundreds of channels would drown the first map.
    """
    means = np.stack([s.second.mean(axis=(0, 1), dtype=np.float64) for s in samples])
    squares = np.stack([np.square(s.second.astype(np.float32)).mean(axis=(0, 1)) for s in samples])
    mean = means.mean(axis=0)
    std = np.sqrt(np.maximum(squares.mean(axis=0) - mean**2, 1e-6) * len(mean))
    return torch.from_numpy(mean.astype(np.float32)), torch.from_numpy(std.astype(np.float32))


def _balance(samples: Sequence[FusionSample], classes: int) -> Tensor:
    """Weights (M,) that lift rare classes, mean 1 over positions."""
    counts = np.ones(classes)
    for sample in samples:
        counts += np.bincount(sample.label.ravel(), minlength=256)[:classes]
    share = counts / counts.sum()
    weight = share**BALANCE
    return torch.from_numpy((weight / (weight * share).sum()).clip(0.3, 6.0).astype(np.float32))
