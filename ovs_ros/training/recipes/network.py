"""The embedded model's network, which refines the selected words' cosines; all else is frozen.

Each view is decided among the categories that it truly has, those that selection names (DCP-CLIP, equations
1 to 5), others of its set, and a few animals, which are in none of these sets and stand for absurd words.
Logits are upsampled as the run time does it. The encoders and the head stay frozen, so what they give is
computed once, by the very code and int8 weights that run.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from torch import Tensor
from torch.nn import functional as F

from ovs_ros.encoders.embedded import LOGIT_SCALE, EmbeddedImageEncoder, EmbeddedTextEncoder
from ovs_ros.encoders.heads import ConvexHead
from ovs_ros.evaluation.labelled_folder import labelled_pairs
from ovs_ros.runtime.files import file_digest
from ovs_ros.steps.network import NETWORK_FILE
from ovs_ros.training.cache import Array, Cache, write_cache
from ovs_ros.training.data import read_image_names, resize_labels
from ovs_ros.training.distributed import Ranks
from ovs_ros.training.export_network import export_network
from ovs_ros.training.head import SCALE
from ovs_ros.training.networks.candidates import choose, elected, present
from ovs_ros.training.networks.objective import Objective
from ovs_ros.training.options import NetworkOptions
from ovs_ros.training.recipes.stage import StageRecipe
from ovs_ros.training.views import View, labelled_views, random_crop
from ovs_ros.training.vocabularies import HELD_OUT, LabelVocabulary, count_values, label_vocabularies
from ovs_ros.zoo.coarse_to_fine import checkpoint
from ovs_ros.zoo.coarse_to_fine.config import NetworkConfig
from ovs_ros.zoo.coarse_to_fine.network_inputs import ImageFeatures

GRID, PATCH = (21, 28), 14
"""Patches of every view, and a patch's side; views are stretched a little to fill the grid."""
BIAS_RATE = 0.05
"""Peak learning rate of the bias of sigmoids: fast, or the network turns into one number everywhere."""
ANIMALS = slice(0, 398)
"""Which of ImageNet's classes are animals."""
CROPPED = {"full": None, "crop": 0.4, "part": 0.4}
"""The views of each image: as it is, and random crops with this least side."""


class NetworkRecipe(StageRecipe):
    """Train one network on projected views.

    Args:
        options: how.
        ranks: this process among its fellows.
        data: holds the labelled sets and imagenet_samples.
        cache: gets the projected views.
        models: holds the encoders and the head.

    Raises:
        ValueError: the configuration is for more than one prompt, or upsamples itself.
    """

    loss_names = ("pixels", "alignment")
    model: Objective
    options: NetworkOptions
    refines = True

    def __init__(self, options: NetworkOptions, ranks: Ranks, data: Path, cache: Path, models: Path) -> None:
        super().__init__(options, ranks, data, models)
        fields = dict(part.split("=", 1) for part in options.parts.split(",") if part)
        config = NetworkConfig.embedded(
            **{"prompts": 1, "logit_scale": LOGIT_SCALE, **{k: yaml.safe_load(v) for k, v in fields.items()}}
        )
        if config.prompts != 1 or config.levels:
            raise ValueError(
                f"expected a network over 1 prompt with 0 levels, got {config.prompts} and {config.levels}; "
                "the run time averages prompts and upsamples by itself"
            )
        self.model = Objective(
            config,
            alignment=options.alignment,
            selection=False,
            softmax=options.loss == "softmax",
            autocast=self.autocast,
        ).to(self.device)
        held_out = HELD_OUT if options.hold_out else ()
        self.maps: list[tuple[list[Cache], int, LabelVocabulary]] = []
        """Of each label map its set's views, its number, and its words."""
        for name in options.sets.split(","):
            views = self._projected(data / name / "train", cache, models)
            counts = [count_values(labels[:, ::2, ::2]) for labels in views[0].labels]
            vocabularies = label_vocabularies(data / name, counts, held_out=held_out)
            self.maps += [(views, which, vocabulary) for which, vocabulary in enumerate(vocabularies)]
        animals = [name for _, name in read_image_names(data / "imagenet_samples")][ANIMALS]
        learned = [word for _, _, vocabulary in self.maps for word in vocabulary.words]
        bank = list(dict.fromkeys([*animals, *learned]))
        text = EmbeddedTextEncoder(models)
        prompts = text.encode([template.format(name) for name in bank for template in text.templates])
        means = torch.from_numpy(prompts).unflatten(0, (len(bank), -1)).mean(1)
        self.words = dict(zip(bank, F.normalize(means, dim=-1).to(self.device), strict=True))
        self.animals = torch.stack([self.words[name] for name in animals])
        with np.load(models / "text_head.npz", allow_pickle=False) as head:
            self.detail_words = torch.from_numpy(head["details"]).to(self.device)  # (D, F)
        self.identity = {"names": learned}
        self._fit_bias()

    def _projected(self, split: Path, cache: Path, models: Path) -> list[Cache]:
        digest = file_digest(models / "image_head.onnx")[:8]
        views = []
        for number, (kind, smallest) in enumerate(CROPPED.items()):
            folder = cache / f"projected_{digest}_{split.parent.name}_{kind}"
            if self.ranks.first:
                write_cache(
                    folder, project(split, models, number, smallest), count=len(labelled_pairs(split))
                )
            self.ranks.wait()
            views.append(Cache(folder))
        return views

    def parameter_groups(self) -> list[dict[str, Any]]:
        """See `Recipe`."""
        rest = [p for name, p in self.model.named_parameters() if name != "bias"]
        groups: list[dict[str, Any]] = [{"params": rest, "lr": self.options.rate, "weight_decay": 0.02}]
        if self.model.bias is not None:
            groups.append({"params": [self.model.bias], "lr": BIAS_RATE, "weight_decay": 0.0})
        return groups

    def loss(self, step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """See `Recipe`."""
        return self.model(**self._batch(rng))

    def _batch(self, rng: np.random.Generator) -> dict[str, Any]:
        """What `Objective` takes: views of one set, under one of its vocabularies."""
        options = self.options
        caches, which, vocabulary = self.maps[int(rng.integers(len(self.maps)))]
        views = caches[int(rng.integers(len(caches)))]
        batch = min(options.batch // self.ranks.world, len(views))
        indices = np.sort(rng.choice(len(views), batch, replace=False))

        def read(name: str) -> Tensor:
            return torch.from_numpy(views[name][indices].astype(np.float32)).to(self.device)

        labels = torch.from_numpy(vocabulary.lines[views.labels[which][indices]]).to(self.device)
        shallow = (read("hidden"),) if self.model.network.config.shallow else ()
        features = ImageFeatures(read("patches"), read("image"), shallow)
        words = torch.stack([self.words[name] for name in vocabulary.shown(rng, 0.3)])  # (K, D)
        animals = rng.choice(len(self.animals), min(options.animals, len(self.animals)), replace=False)
        words = torch.cat((words, self.animals[animals]))
        true = present(labels, len(words))
        named = elected(features, words, torch.ones_like(true), LOGIT_SCALE)
        named[:, len(vocabulary.names) :] = True
        candidates = choose(true, named, distractors=options.distractors, most=options.candidates)
        chosen = candidates.pick(words)  # (B, M, D)
        details = torch.einsum("bnsf,bmf->bmns", read("details"), chosen @ self.detail_words) * LOGIT_SCALE
        weights = torch.cat((vocabulary.weights, torch.ones(len(animals)))).to(self.device)
        return {
            "features": features,
            "words": chosen[:, :, None],
            "labels": labels,
            "candidates": candidates,
            "weights": weights,
            "upsample": partial(upsample, weights=read("weights"), details=details),
        }

    def _fit_bias(self) -> None:
        batch = self._batch(np.random.default_rng(self.options.seed))
        mask = batch["candidates"].mask
        with torch.no_grad(), self.autocast():
            coarse = self.model.network(batch["features"], batch["words"], mask).logits
        logits = batch["upsample"](coarse.float()).flatten(2)
        self.model.fit_bias([one[there] for one, there in zip(logits, mask, strict=True)])

    def save(self, folder: Path) -> None:
        """Write `network.pt`, and as ONNX what the run time takes."""
        checkpoint.save(self.model.network, folder / "network.pt")
        self.write(folder)

    def write(self, models: Path) -> None:
        """See `StageRecipe`."""
        export_network(self.model.network, models / NETWORK_FILE, self.options.strength)


def project(split: Path, models: Path, seed: int, smallest: float | None) -> Iterator[dict[str, Array]]:
    """A split's views as the run time sees them, for `write_cache`.

    Args:
        split: of a labelled set.
        models: the folder of the embedded model.
        seed: of random crops.
        smallest: the crops' least side; None: whole images.

    Yields:
        float16 image (D,), patches (h, w, D), hidden (h, w, C), weights (h*w, 16, 9), details (h*w, 16, F),
        and label_0 … uint8 (4h, 4w).
    """
    (rows, columns), rng = GRID, np.random.default_rng(seed)
    encoder = EmbeddedImageEncoder(models, patches=rows * columns)

    def change(view: View) -> View:
        return view if smallest is None else random_crop(view, rng, smallest)

    for view in labelled_views(split, change):
        image = cv2.resize(view.image, (columns * PATCH, rows * PATCH), interpolation=cv2.INTER_AREA)
        features = encoder.encode(image)
        head = features.head
        assert isinstance(head, ConvexHead) and features.hidden is not None
        arrays = {
            "image": features.class_token,
            "patches": features.patch_tokens,
            "hidden": features.hidden,
            "weights": head.weights,
            "details": head.details,
        }
        record: dict[str, Array] = {name: value.astype(np.float16) for name, value in arrays.items()}
        for which, labels in enumerate(view.labels):
            record[f"label_{which}"] = resize_labels(labels, (columns * SCALE, rows * SCALE))
        yield record


def upsample(coarse: Tensor, weights: Tensor, details: Tensor) -> Tensor:
    """Upsample patch logits as the run time does (see `encoders/heads.py`).

    Args:
        coarse: (B, M, h, w).
        weights: (B, h*w, 16, 9) convex.
        details: (B, M, h*w, 16), added to the logits of pixel positions.

    Returns:
        (B, M, 4h, 4w).
    """
    batch, words, h, w = coarse.shape
    around = F.unfold(F.pad(coarse, (1, 1, 1, 1), mode="replicate"), 3).view(batch, words, 9, h * w)
    fine = torch.einsum("bnsk,bmkn->bmns", weights, around) + details  # (B, M, h*w, 16)
    fine = fine.view(batch, words, h, w, SCALE, SCALE).permute(0, 1, 2, 4, 3, 5)
    return fine.reshape(batch, words, h * SCALE, w * SCALE)
