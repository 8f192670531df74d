"""The coarse-to-fine network over any pair of encoders, on labelled sets.

Each view is decided among the categories that it truly has, those that selection names (DCP-CLIP, equations 1
to 5), and a few that neither knows. The losses are those of the papers: per-pixel BCE over these categories,
FGAseg's text-pixel alignment, and the auxiliary selection loss. The run's folder becomes a model folder, and
evaluation opens such a folder as `ovs evaluate` does.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor
from torch.nn import functional as F

from ovs_ros.encoders.manifest import SELECTION_FILE
from ovs_ros.evaluation.metrics import ConfusionMatrix
from ovs_ros.runtime.checksums import write_checksums
from ovs_ros.segmenter import Segmenter
from ovs_ros.steps.network import NETWORK_FILE
from ovs_ros.steps.network_record import NetworkRecord
from ovs_ros.training.datasets import SegmentationDataset
from ovs_ros.training.distributed import Ranks
from ovs_ros.training.encoder_pair import CHECKPOINT, Encoded, EncoderPair
from ovs_ros.training.loop import Recipe
from ovs_ros.training.networks.candidates import Candidates, choose, elected, present
from ovs_ros.training.networks.objective import Objective
from ovs_ros.training.options import NetworkOptions
from ovs_ros.training.samples import Samples, load_batches
from ovs_ros.vocabulary.vocabulary import Vocabulary
from ovs_ros.zoo.coarse_to_fine.config import NetworkConfig
from ovs_ros.zoo.coarse_to_fine.network import CoarseToFine
from ovs_ros.zoo.coarse_to_fine.tuned_attention import TUNED_FILE

BIAS_IMAGES = 8
"""How many views the pixel loss's bias is fitted on before the first step."""


def network_config(pair: EncoderPair, size: str, parts: str) -> NetworkConfig:
    """The configuration of a network over a pair.

    Args:
        pair: says the widths of what the network is given.
        size: "full", "embedded", or "auto": "embedded" where the pair runs on two CPU cores.
        parts: fields that differ, NAME=VALUE with commas.

    Raises:
        ValueError: a field that does not exist or cannot be set, or more levels than the pair takes.
    """
    given = {name: value for name, _, value in (part.partition("=") for part in parts.split(",") if part)}
    own = {name: getattr(pair, name) for name in ("dim", "prompts", "shallow", "attention", "logit_scale")}
    known = {field.name for field in fields(NetworkConfig)} - set(own)
    if foreign := set(given) - known:
        raise ValueError(
            f"expected parts out of {', '.join(sorted(known))}, got {', '.join(sorted(foreign))}"
        )
    small = size == "embedded" or (size == "auto" and pair.small)
    preset = NetworkConfig.embedded(**own) if small else NetworkConfig.full(**own)
    settings = {"levels": min(preset.levels, pair.most_levels)}
    settings |= {name: yaml.safe_load(value) for name, value in given.items()}
    config = NetworkConfig(**{**vars(preset), **settings})
    if config.levels > pair.most_levels:
        raise ValueError(
            f"expected at most {pair.most_levels} levels over {pair.name}, whose head takes no finer logits, "
            f"got {config.levels}"
        )
    return config


class NetworkRecipe(Recipe):
    """Train one network.

    Args:
        options: how.
        ranks: this process among its fellows.
        pair: the encoders.
        training: sets to learn from.
        evaluation: sets to measure on.

    Raises:
        ValueError: the options' parts do not go together.
    """

    loss_names = ("pixels", "alignment", "selection")
    model: Objective
    options: NetworkOptions

    def __init__(
        self,
        options: NetworkOptions,
        ranks: Ranks,
        pair: EncoderPair,
        training: Sequence[SegmentationDataset],
        evaluation: Sequence[SegmentationDataset],
    ) -> None:
        super().__init__(options, ranks)
        self.pair, self.evaluation = pair.to(self.device), evaluation
        config = network_config(pair, options.size, options.parts)
        self.samples = Samples(training, (pair.side, pair.side), options.seed)
        self.known = torch.from_numpy(self.samples.known).to(self.device)  # (sets, K)
        self.record = NetworkRecord(pair.name, pair.digest, tuple(pair.templates), self.samples.names)
        self.model = Objective(config, alignment=options.alignment, autocast=self.autocast).to(self.device)
        self.model.tuned = pair.tuned
        self._frozen = None if pair.tuned is not None else pair.words(self.samples.names).to(self.device)
        self.identity = {
            **{f"network.{key}": value for key, value in asdict(config).items()},
            "encoders": f"{pair.name} {pair.digest}",
            "names": self.samples.names,
            "images": len(self.samples),
        }
        self._batches: Iterator[tuple[Tensor, Tensor, Tensor]] | None = None
        self._fit_bias()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Matrices and kernels, which decay; biases, norms and scales, which do not; tuned encoders."""
        options = self.options
        named = [(name, p) for name, p in self.model.named_parameters() if not name.startswith("tuned.")]
        tuned = [] if self.model.tuned is None else list(self.model.tuned.parameters())
        return [
            {"params": [p for _, p in named if p.dim() > 1], "lr": options.rate, "weight_decay": 1e-2},
            {"params": [p for _, p in named if p.dim() <= 1], "lr": options.rate, "weight_decay": 0.0},
            {"params": tuned, "lr": options.tune_rate, "weight_decay": 0.0},
        ]

    def loss(self, step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """See `Recipe`."""
        if self._batches is None:
            self._batches = load_batches(self.samples, self.options, self.ranks, step)
        encoded, words, labels, candidates = self.look(*next(self._batches))
        return self.model(encoded, words, labels, candidates)

    def look(
        self, images: Tensor, labels: Tensor, which: Tensor
    ) -> tuple[Encoded, Tensor, Tensor, Candidates]:
        """A batch's features, its candidates' words, its labels and its candidates; see `Samples`."""
        images, labels, which = (t.to(self.device, non_blocking=True) for t in (images, labels, which))
        with self.autocast():
            encoded = self.pair.encode(images.float())
            words = self._frozen  # (K, P, D)
            if words is None:
                words = self.pair.words(self.samples.names).float()
        known = self.known[which]  # (B, K)
        with torch.no_grad():
            means = F.normalize(words.mean(1), dim=-1)
            candidates = choose(
                present(labels, len(words)),
                elected(encoded.features, means, known, self.pair.logit_scale),
                distractors=self.options.distractors,
                pool=known,
                most=self.options.candidates,
            )
        return encoded, candidates.pick(words), labels, candidates

    @torch.no_grad()  # type: ignore[untyped-decorator]  # torch is not installed where types are checked
    def _fit_bias(self) -> None:
        found = []
        for place in range(BIAS_IMAGES):
            image, labels, which = self.samples[place]
            encoded, words, _, candidates = self.look(image[None], labels[None], torch.tensor([which]))
            logits = self.model.logits(encoded, words, candidates)[0]
            found.append(logits[0].flatten(1).float())  # (M, H * W)
        self.model.fit_bias(found)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """mIoU of the model folder, every process on its share of the images."""
        results = {}
        with TemporaryDirectory() as folder:
            self.save(Path(folder))
            segmenter = Segmenter(self.pair.open(Path(folder)))
            for dataset in self.evaluation:
                words = segmenter.embed(Vocabulary.from_names(dataset.names))
                matrix = ConfusionMatrix(len(dataset.names))
                for index in range(self.ranks.rank, len(dataset), self.ranks.world):
                    image, truth = dataset.read(index)
                    matrix.add(truth, segmenter.segment(image, words).labels)
                results[dataset.name] = self.figures(matrix)
        return results

    def save(self, folder: Path) -> None:
        """Write the model folder: a model file, the network, its selection head, and tuned weights."""
        self.pair.write(at_strength(self.model.network, self.options.strength), self.record, folder)
        self.model.auxiliary.write(folder / SELECTION_FILE)
        write_checksums(folder, (NETWORK_FILE, CHECKPOINT, TUNED_FILE, SELECTION_FILE))


def at_strength(network: CoarseToFine, share: float) -> CoarseToFine:
    """A copy of a network that adds a share of what it would add to the scaled cosines.

    Raises:
        ValueError: a share other than 1 of a network that does not add to the cosines.
    """
    network = deepcopy(network).cpu().eval()
    if share != 1.0:
        if not network.config.residual:
            raise ValueError(
                f"expected a network that adds to the scaled cosines for a strength of {share}, got one "
                "whose residual is off; leave strength at 1"
            )
        with torch.no_grad():
            for parameter in network.head.parameters():
                parameter.mul_(share)
    return network
