"""Train the embedded model's network, which refines the selected words' cosines; all else is frozen.

Each view is decided among the categories that it truly has, those that selection names (DCP-CLIP, equations
1 to 5), others of its set, and a few animals, which are in none of these sets and stand for absurd words.
The losses are the papers', on logits that are upsampled as the run time does it.
"""

import csv
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from ovs_ros.encoders.embedded import LOGIT_SCALE, MODELS, EmbeddedImageEncoder, EmbeddedTextEncoder
from ovs_ros.training.data import IGNORE, labelled_images, read_image_names
from ovs_ros.training.networks.auxiliary import AuxiliaryHead
from ovs_ros.training.networks.candidates import Candidates, choose, present
from ovs_ros.training.networks.losses import (
    T2P_WEIGHT,
    TextPixelAlignment,
    binary_cross_entropy,
    cross_entropy,
    even_bias,
    patch_cross_entropy,
)
from ovs_ros.training.projected import GRID, Projected, pixel_logits, write_projected
from ovs_ros.training.token_cache import View, labelled_views, random_crop
from ovs_ros.training.train_full import SELECTION_WEIGHT, elected
from ovs_ros.training.vocabularies import LabelVocabulary, label_vocabularies
from ovs_ros.zoo.coarse_to_fine import checkpoint
from ovs_ros.zoo.coarse_to_fine.config import NetworkConfig
from ovs_ros.zoo.coarse_to_fine.network import CoarseToFine
from ovs_ros.zoo.coarse_to_fine.network_inputs import ImageFeatures

BIAS_RATE = 0.05
"""Peak learning rate of the bias of sigmoids: fast, or the network turns into one number everywhere."""
ANIMALS = slice(0, 398)
"""Which of ImageNet's classes are animals."""
VIEWS: dict[str, Callable[[np.random.Generator], Callable[[View], View]]] = {
    "full": lambda rng: lambda view: view,
    "crop": lambda rng: lambda view: random_crop(view, rng, 0.4),
    "part": lambda rng: lambda view: random_crop(view, rng, 0.4),
}


@dataclass(frozen=True)
class NetworkOptions:
    """What a network learns from and how.

    Attributes:
        sets: labelled sets (folders of the data directory).
        held_out: fine names whose pixels are hidden.
        steps: how many. batch: views a step.
        rate: peak learning rate.
        candidates: categories that a view is told apart among at most.
        distractors: how many of them are drawn from its set. animals: how many more from animals.
        pixel_loss: "bce", as in the papers, or "softmax", what the run time decides by.
        alignment: add FGAseg's T2P loss. selection: add the auxiliary selection loss.
        seed: of all chance.
    """

    sets: tuple[str, ...] = ("nyuv2", "camvid")
    held_out: tuple[str, ...] = ()
    steps: int = 200
    batch: int = 6
    rate: float = 6e-4
    candidates: int = 24
    distractors: int = 6
    animals: int = 2
    pixel_loss: str = "bce"
    alignment: bool = True
    selection: bool = True
    seed: int = 0


@dataclass(frozen=True)
class LabelMap:
    """One label map of a set: the set's views, the map's number, and its words."""

    views: list[Projected]
    which: int
    vocabulary: LabelVocabulary


def project_views(data: Path, caches: Path, sets: Sequence[str], models: Path = MODELS) -> None:
    """Encode the training views of labelled sets into `caches`, those that are not there yet."""
    encoder = EmbeddedImageEncoder(models, patches=GRID[0] * GRID[1])
    for name in sets:
        split = data / name / "train"
        for number, (kind, change) in enumerate(VIEWS.items()):
            folder = caches / f"projected_{name}_{kind}"
            if (folder / "source.npy").is_file():
                continue
            make: Callable[[], Iterator[View]] = partial(
                labelled_views, split, change(np.random.default_rng(number))
            )
            count = len(labelled_images(split))
            write_projected(folder, encoder, make(), count=count, title=f"{name} {kind}")


def open_label_maps(data: Path, caches: Path, sets: Sequence[str], held_out: Sequence[str]) -> list[LabelMap]:
    """The class names of each set, and its fine names if any; held-out names and pixels are left out."""
    maps = []
    for name in sets:
        views = [Projected(caches / f"projected_{name}_{kind}") for kind in VIEWS]
        counts = [np.bincount(np.asarray(m[:, ::2, ::2]).ravel(), minlength=256) for m in views[0].labels]
        for which, vocabulary in enumerate(label_vocabularies(data / name, counts, held_out)):
            maps.append(LabelMap(views, which, vocabulary))
    return maps


class NetworkTrainer:
    """Trains one network on projected views.

    Args:
        config: of the network; one prompt a word.
        options: how to train.
        data: the folder of the sets.
        caches: what `project_views` wrote.
        models: the folder of the shipped encoders and head.

    Raises:
        ValueError: the configuration is for more than one prompt, or upsamples itself; or there is no such
            pixel loss.
    """

    def __init__(
        self, config: NetworkConfig, options: NetworkOptions, data: Path, caches: Path, models: Path = MODELS
    ) -> None:
        if config.prompts != 1 or config.levels:
            raise ValueError(
                f"expected a network over 1 prompt with 0 levels, got {config.prompts} and {config.levels}; "
                "the run time averages prompts and upsamples by itself"
            )
        if options.pixel_loss not in ("softmax", "bce"):
            raise ValueError(f"expected the pixel loss to be softmax or bce, got {options.pixel_loss!r}")
        torch.manual_seed(options.seed)
        self.config, self.options = config, options
        self.rng = np.random.default_rng(options.seed)
        self.maps = open_label_maps(data, caches, options.sets, options.held_out)
        animals = [name for _, name in read_image_names(data / "imagenet_samples")][ANIMALS]
        bank = dict.fromkeys(animals)
        for one in self.maps:
            bank.update(dict.fromkeys(one.vocabulary.names))
            bank.update(dict.fromkeys(word for own in one.vocabulary.synonyms.values() for word in own))
        text = EmbeddedTextEncoder(models)
        self.words = {
            name: torch.from_numpy(embedding)
            for name, embedding in zip(bank, _embed(text, list(bank)), strict=True)
        }
        self.animals = torch.stack([self.words[name] for name in animals])
        with np.load(models / "text_head.npz", allow_pickle=False) as head:
            self.detail_words = torch.from_numpy(head["details"])  # (D, F)
        self.network = CoarseToFine(config)
        self.auxiliary = AuxiliaryHead(config.dim, scale=LOGIT_SCALE)
        self.alignment = TextPixelAlignment(config.dim, config.dim)
        modules = (self.network, self.auxiliary, self.alignment)
        self.parameters = [parameter for module in modules for parameter in module.parameters()]
        # What sigmoids of scaled cosines need, fitted to the first batch and then learnt.
        self.bias: torch.nn.Parameter | None = None
        self.average = {k: v.detach().clone() for k, v in self.network.state_dict().items()}

    def losses(self) -> dict[str, Tensor]:
        """The weighted losses of one batch: views of one set, under one of its vocabularies."""
        options = self.options
        one = self.maps[int(self.rng.integers(len(self.maps)))]
        vocabulary = one.vocabulary
        views = one.views[int(self.rng.integers(len(one.views)))]
        indices = np.sort(self.rng.choice(len(views), min(options.batch, len(views)), replace=False))
        labels = torch.from_numpy(vocabulary.lines[views.labels[one.which][indices]]).long()  # (B, 4h, 4w)
        hidden = views.read("hidden", indices)
        features = ImageFeatures(
            patches=views.read("patches", indices),
            image=views.read("image", indices),
            shallow=(hidden,) if self.config.shallow else (),
        )
        words = torch.stack([self.words[name] for name in vocabulary.shown(self.rng, 0.3)])  # (K, D)
        some = torch.from_numpy(self.rng.choice(len(self.animals), options.animals, replace=False))
        words = torch.cat((words, self.animals[some]))
        true = present(labels, len(words), ignore=IGNORE)
        named = elected(features, words, torch.ones_like(true), LOGIT_SCALE)
        named[:, len(vocabulary.names) :] = True
        candidates = choose(
            true,
            named,
            distractors=options.distractors,
            most=max(options.candidates, int(true.sum(1).max())),
        )
        weights = torch.cat((vocabulary.weights, torch.ones(options.animals)))
        return self._losses_of(features, words, labels, candidates, weights, views, indices)

    def _losses_of(
        self,
        features: ImageFeatures,
        words: Tensor,
        labels: Tensor,
        candidates: Candidates,
        weights: Tensor,
        views: Projected,
        indices: NDArray[np.intp],
    ) -> dict[str, Tensor]:
        chosen = candidates.pick(words)  # (B, M, D)
        with torch.autocast("cpu", torch.bfloat16):
            output = self.network(features, chosen[:, :, None], candidates.mask)
        logits = pixel_logits(
            output.logits.float(),
            views.read("weights", indices),
            views.read("details", indices),
            chosen @ self.detail_words,
            LOGIT_SCALE,
        )
        if self.options.pixel_loss == "bce":
            logits = logits + self._bias(logits, candidates)
            pixels = binary_cross_entropy(logits, labels, candidates, weights=weights, ignore=IGNORE)
        else:
            pixels = cross_entropy(logits, labels, candidates, weights=weights, ignore=IGNORE)
        losses = {"pixels": pixels}
        if self.options.alignment:
            patches = output.patches.float()
            losses["alignment"] = T2P_WEIGHT * self.alignment(
                output.words.float(), patches, labels, candidates, ignore=IGNORE
            )
        if self.options.selection:
            losses["selection"] = SELECTION_WEIGHT * patch_cross_entropy(
                self.auxiliary(features.patches, chosen[:, :, None]), labels, candidates, ignore=IGNORE
            )
        return losses

    def _bias(self, logits: Tensor, candidates: Candidates) -> Tensor:
        """The learnt bias of sigmoids; the first call fits it to logits (B, M, H, W)."""
        if self.bias is None:
            there = candidates.mask[:, :, None, None].expand_as(logits)
            right = len(logits) / int(candidates.mask.sum())  # of an image's candidates, one
            self.bias = torch.nn.Parameter(even_bias(logits.detach()[there], right))
        return self.bias

    def train(self, log: Path, console: Console) -> None:
        """Run all steps; writes a line of losses every 25 steps to `log` (CSV)."""
        options = self.options
        groups: list[dict[str, Any]] = [{"params": self.parameters, "peak": options.rate}]
        if options.pixel_loss == "bce":
            self.losses()  # the bias exists after it
            groups.append({"params": [self.bias], "peak": BIAS_RATE, "weight_decay": 0.0})
        optimiser = torch.optim.AdamW(groups, weight_decay=0.02)
        started = time.perf_counter()
        sums: dict[str, float] = {}
        with log.open("w", newline="") as file:
            writer = csv.writer(file)
            for step in range(1, options.steps + 1):
                share = min(step / 40, 0.5 * (1 + math.cos(math.pi * step / options.steps)) + 0.005)
                for group in optimiser.param_groups:
                    group["lr"] = group["peak"] * share
                losses = self.losses()
                optimiser.zero_grad()
                torch.stack(list(losses.values())).sum().backward()
                torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
                optimiser.step()
                decay = min(0.99, step / (step + 20))
                for key, value in self.network.state_dict().items():
                    self.average[key].lerp_(value, 1 - decay)
                for key, loss in losses.items():
                    sums[key] = sums.get(key, 0.0) + float(loss.detach()) / 25
                if step % 25 == 0:
                    if step == 25:
                        writer.writerow(["step", "seconds", *sums])
                    seconds = time.perf_counter() - started
                    writer.writerow([step, f"{seconds:.0f}", *(f"{v:.4f}" for v in sums.values())])
                    file.flush()
                    console.print(f"step {step}/{options.steps}", {k: round(v, 3) for k, v in sums.items()})
                    sums = {}

    def averaged(self) -> CoarseToFine:
        """The network with the moving average of its weights."""
        network = CoarseToFine(self.config)
        network.load_state_dict(self.average)
        return network.eval()

    def save(self, path: Path) -> None:
        """Write the averaged network; `networks.checkpoint.load` reads it."""
        checkpoint.save(self.averaged(), path)


def _embed(text: EmbeddedTextEncoder, names: Sequence[str]) -> NDArray[np.float32]:
    """Unit means over the templates, (n, D), as the vocabulary makes them."""
    texts = [template.format(name) for name in names for template in text.templates]
    mean = text.encode(texts).reshape(len(names), len(text.templates), -1).mean(axis=1)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)
