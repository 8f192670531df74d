"""Train `CoarseToFine` over frozen encoders on labelled sets: `ovs train full`.

Each image is decided among the categories that it truly has, those that selection names (DCP-CLIP,
equations 1 to 5), and a few that neither knows. The losses are those of the papers: per-pixel BCE over these
categories, FGAseg's text-pixel alignment, and the auxiliary selection loss.

A run's folder holds `last.pt` (all that a run needs to go on), `network.pt` (the network alone, which
`networks.checkpoint.load` reads), `losses.csv`, `evaluation.csv` and TensorBoard's `events/`. Chance follows
from the seed, the step and the process alone, so a run that was stopped goes on as if it had not been.
"""

import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from ovs_ros.encoders.model_file import ModelFile
from ovs_ros.encoders.patches import blank, fit_grid, place
from ovs_ros.evaluation.metrics import ConfusionMatrix
from ovs_ros.training.datasets.dataset import IGNORE, SegmentationDataset
from ovs_ros.training.distributed import Ranks
from ovs_ros.training.encoder_pair import DinoMiniLM, EncoderPair
from ovs_ros.training.networks.auxiliary import AuxiliaryHead
from ovs_ros.training.networks.candidates import Candidates, choose, present
from ovs_ros.training.networks.losses import (
    T2P_WEIGHT,
    TextPixelAlignment,
    binary_cross_entropy,
    even_bias,
    patch_cross_entropy,
)
from ovs_ros.training.open_clip_pair import OpenClip
from ovs_ros.training.run_log import RunLog
from ovs_ros.training.samples import JoinedSets, Places, Samples, join_sets, load_batches
from ovs_ros.zoo.coarse_to_fine import checkpoint
from ovs_ros.zoo.coarse_to_fine.config import NetworkConfig
from ovs_ros.zoo.coarse_to_fine.network import CoarseToFine
from ovs_ros.zoo.coarse_to_fine.network_inputs import ImageFeatures

THETA = 0.5
"""theta of DCP-CLIP's equation 4."""
SELECTION_WEIGHT = 0.4
"""What the auxiliary selection loss is multiplied with."""
BIAS_IMAGES = 8
"""How many views the pixel loss's bias is fitted on before the first step."""
LONGEST_NORM = 1.0
"""Gradients are shortened to this norm."""
SCHEDULES = ("poly", "cosine")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class FullOptions:
    """How a network is trained. Two runs with the same options, data and seed are the same.

    Attributes:
        steps: how many.
        batch: images a step, over all processes; the papers': 4.
        crop: side of a view in patches; the paper's: 24.
        candidates: categories an image is told apart among; more where it truly has more.
        distractors: how many of them are drawn from those that neither truth nor selection knows.
        rate: peak learning rate. schedule: how it falls, "poly" (power 0.9) or "cosine".
        warm_up: steps in which it rises.
        decay: weight decay of AdamW, on matrices.
        precision: what the networks compute in: "fp32", "bf16" or "fp16" (CUDA only).
        seed: of all chance.

    Raises:
        ValueError: a field is out of its range.
    """

    steps: int = 80_000
    batch: int = 4
    crop: int = 24
    candidates: int = 48
    distractors: int = 16
    rate: float = 2e-4
    schedule: str = "poly"
    warm_up: int = 500
    decay: float = 1e-2
    precision: str = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "crop", "candidates"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} to be at least 1, got {getattr(self, name)}")
        for name in ("distractors", "warm_up", "decay", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"expected {name} to be at least 0, got {getattr(self, name)}")
        if not self.rate > 0:
            raise ValueError(f"expected a rate above 0, got {self.rate}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"expected a schedule out of {', '.join(SCHEDULES)}, got {self.schedule!r}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"expected a precision out of {', '.join(PRECISIONS)}, got {self.precision!r}")


@dataclass(frozen=True)
class Every:
    """After how many steps a run reports: losses into the log, results on evaluation sets, the checkpoint."""

    log: int = 50
    evaluate: int = 5000
    save: int = 1000


def best_precision(device: torch.device) -> str:
    """The fastest precision that is safe on a device."""
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def prepare(size: str, file: ModelFile | None = None) -> tuple[EncoderPair, NetworkConfig]:
    """Frozen encoders and the configuration of a network over them.

    Args:
        size: "full" or "embedded".
        file: a ViT of open_clip with attention 'maskclip'; None: the embedded model.

    Raises:
        ValueError: no such size or model.
        FileNotFoundError: weights are missing.
        ModuleNotFoundError: open_clip is not installed.
    """
    if size not in ("full", "embedded"):
        raise ValueError(f"expected the size 'full' or 'embedded', got {size!r}")
    pair: EncoderPair = DinoMiniLM() if file is None else OpenClip(file)
    make = NetworkConfig.full if size == "full" else NetworkConfig.embedded
    # The embedded model's head upsamples what a network gives.
    levels = {"levels": 0} if file is None else {}
    return pair, make(
        **levels,
        dim=pair.dim,
        prompts=pair.prompts,
        shallow=pair.shallow,
        attention=pair.attention,
        logit_scale=pair.logit_scale,
    )


def rate_share(step: int, options: FullOptions) -> float:
    """The share of the peak rate at a step counted from 0: in (0, 1]."""
    rise = min(1.0, (step + 1) / (options.warm_up + 1))
    left = 1.0 - step / options.steps
    return rise * (left**0.9 if options.schedule == "poly" else 0.5 * (1 - math.cos(math.pi * left)))


def elected(features: ImageFeatures, words: Tensor, known: Tensor, scale: float) -> Tensor:
    """The categories that each image can hold: DCP-CLIP's equations 1 to 5, as `steps/selection.py`.

    Args:
        features: of B images.
        words: (K, D) unit, the vocabulary, each word the mean over its prompts.
        known: (B, K) bool, the categories that can be elected.
        scale: what cosines are multiplied with.

    Returns:
        (B, K) bool.
    """
    absent = ~known
    whole = (features.image @ words.T * scale).masked_fill(absent, -torch.inf).log_softmax(dim=1)  # (B, K)
    # The difference from 1 loses all digits where one takes nearly everything: sum up the others.
    top = whole.argmax(dim=1, keepdim=True)
    others = whole.scatter(1, top, -torch.inf).logsumexp(dim=1, keepdim=True)
    held_back = torch.log1p(-whole.exp()).scatter(1, top, others).clamp(min=-1e4)  # log(1 - S_i)
    votes = features.patches.flatten(1, 2) @ words.T * scale + held_back[:, None]  # (B, N, K)
    winners = votes.masked_fill(absent[:, None], -torch.inf).argmax(dim=2)  # (B, N)
    chosen = torch.zeros_like(known).scatter_(1, winners, True)
    return chosen | (whole.exp() > THETA)


class Objective(nn.Module):
    """All that is trained, and its losses; one module, so that processes can share its gradients.

    The pixel loss takes a learnt bias, the same for all categories, as sigmoids of scaled cosines need (Zhai
    et al., "Sigmoid Loss for Language Image Pre-Training", ICCV 2023, section 3.2). It decides nothing.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.network = CoarseToFine(config)
        self.auxiliary = AuxiliaryHead(config.dim, scale=config.logit_scale)
        self.alignment = TextPixelAlignment(config.dim, config.dim)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(
        self, features: ImageFeatures, words: Tensor, labels: Tensor, candidates: Candidates
    ) -> dict[str, Tensor]:
        """The weighted losses of a batch by name.

        Args:
            features: of B images.
            words: (B, M, P, D) of the candidates.
            labels: (B, H, W) integer columns of the vocabulary, or IGNORE.
            candidates: what the M categories are.
        """
        output = self.network(features, words, candidates.mask)
        alignment = self.alignment(output.words, output.patches, labels, candidates, ignore=IGNORE)
        selection = patch_cross_entropy(
            self.auxiliary(features.patches, words), labels, candidates, ignore=IGNORE
        )
        return {
            "pixels": binary_cross_entropy(output.logits + self.bias, labels, candidates, ignore=IGNORE),
            "alignment": T2P_WEIGHT * alignment,
            "selection": SELECTION_WEIGHT * selection,
        }


class FullTrainer:
    """One process of a training run.

    Args:
        options: how to train.
        config: of the network.
        pair: the frozen encoders.
        training: sets to learn from.
        evaluation: sets to measure on.
        folder: of the run. A run that was stopped there goes on.
        ranks: this process among its fellows.
        every: when to report.
        workers: processes that read images.

    Raises:
        ValueError: the batch cannot be shared out evenly, or the run in `folder` was another.
    """

    def __init__(
        self,
        options: FullOptions,
        config: NetworkConfig,
        pair: EncoderPair,
        training: Sequence[SegmentationDataset],
        evaluation: Sequence[SegmentationDataset],
        folder: Path,
        ranks: Ranks,
        *,
        every: Every = Every(),  # noqa: B008  # frozen
        workers: int = 0,
    ) -> None:
        if options.batch % ranks.world:
            raise ValueError(
                f"expected a batch that {ranks.world} processes can share evenly, got {options.batch}"
            )
        if options.precision == "fp16" and ranks.device.type != "cuda":
            raise ValueError("expected a GPU for the precision fp16, got none; take bf16 or fp32")
        self.options, self.ranks, self.every, self.workers = options, ranks, every, workers
        self.pair = pair.to(ranks.device)
        self.sets: JoinedSets = join_sets(training)
        self.evaluation = [(dataset, self._words(dataset.names)) for dataset in evaluation]
        self.words = self._words(self.sets.names)  # (K, P, D)
        self.known = torch.from_numpy(self.sets.known).to(ranks.device)  # (sets, K)
        torch.manual_seed(options.seed)
        self.objective = Objective(config).to(ranks.device)
        self.optimiser = torch.optim.AdamW(_groups(self.objective, options))
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=options.precision == "fp16")
        self.step, self.seconds = 0, 0.0
        self.folder = folder
        self.identity: dict[str, Any] = {
            **asdict(options),
            **{f"network.{key}": value for key, value in asdict(config).items()},
            "encoders": pair.name,
            "names": self.sets.names,
            "images": sum(len(dataset) for dataset in training),
        }
        side = options.crop * pair.patch
        self.samples = Samples(self.sets, (side, side), options.seed)
        if (folder / "last.pt").is_file():
            self._resume(folder / "last.pt")
        else:
            self._fit_bias()
        self.shared: nn.Module = self.objective
        if ranks.world > 1:
            own = [ranks.device] if ranks.device.type == "cuda" else None
            self.shared = DistributedDataParallel(self.objective, device_ids=own)

    def train(self, console: Console) -> None:
        """Make the steps that are left.

        Args:
            console: gets a progress bar and the results, in the first process.

        Raises:
            RuntimeError: a loss is no longer a finite number.
        """
        last = self.options.steps
        batches = load_batches(
            self.samples,
            Places(self.step, last, self.options.batch, self.ranks.rank, self.ranks.world),
            workers=self.workers,
            pinned=self.ranks.device.type == "cuda",
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        log = RunLog(self.folder, self.step) if self.ranks.first else None
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not self.ranks.first,
        )
        sums: dict[str, Tensor] = {}
        reported = self.step
        started = time.monotonic() - self.seconds
        try:
            with bar:
                task = bar.add_task("Training", total=self.options.steps, completed=self.step)
                for images, labels, which in batches:
                    for name, loss in self._make_step(images, labels, which).items():
                        sums[name] = sums.get(name, torch.zeros_like(loss)) + loss
                    self.seconds = time.monotonic() - started
                    ends = self.step == last
                    if self.step % self.every.log == 0 or ends:
                        losses = self._mean_losses(sums, self.step - reported)
                        sums, reported = {}, self.step
                        bar.update(task, description=f"Training, loss {losses['loss']:.4f}")
                        if log:
                            log.losses(self.step, losses)
                    if self.evaluation and (self.step % self.every.evaluate == 0 or ends):
                        self._evaluate(log, console)
                    if self.step % self.every.save == 0 or ends:
                        self._save()
                    bar.update(task, completed=self.step)
        finally:
            if log:
                log.close()

    def evaluate(self, dataset: SegmentationDataset, words: Tensor) -> ConfusionMatrix:
        """Measure on a set, every process on its share of the images; all of them get the sum.

        Args:
            dataset: with labels.
            words: (K, P, D) of its names.

        Returns:
            Pixels at the images' own resolution.
        """
        network = self.objective.network.eval()
        matrix = ConfusionMatrix(len(dataset.names))
        with torch.no_grad():
            for index in range(self.ranks.rank, len(dataset), self.ranks.world):
                image, truth = dataset.read(index)
                matrix.add(truth, self._segment(network, image, words))
        counts = torch.from_numpy(matrix.counts).to(self.ranks.device)
        matrix.counts = self.ranks.add_up(counts).cpu().numpy()
        network.train()
        return matrix

    def _segment(self, network: CoarseToFine, image: np.ndarray, words: Tensor) -> np.ndarray:
        """Columns (H, W) of an RGB image (H, W, 3) uint8, decided among those that selection names."""
        height, width = image.shape[:2]
        grid = fit_grid(height, width, patches=self.options.crop**2, patch=self.pair.patch)
        pixels = torch.from_numpy(place(image, grid, blank(grid))).to(self.ranks.device)
        features = self._features(pixels.permute(2, 0, 1)[None])
        means = F.normalize(words.mean(1), dim=-1)
        known = torch.ones(1, len(words), dtype=torch.bool, device=self.ranks.device)
        named = elected(features, means, known, self.pair.logit_scale)
        columns = named[0].nonzero()[:, 0]  # (M,)
        with self._autocast():
            logits = network(features, words[columns][None], named[:, columns]).logits
        # The whole grid is brought to the image's resolution, then its padding is cut off.
        y, x = grid.valid
        logits = F.interpolate(
            logits, (round(height / y), round(width / x)), mode="bilinear", align_corners=False
        )
        return columns[logits[0, :, :height, :width].argmax(dim=0)].cpu().numpy()

    def _make_step(self, images: Tensor, labels: Tensor, which: Tensor) -> dict[str, Tensor]:
        """One step of the optimiser; gives the losses."""
        options = self.options
        torch.manual_seed(_step_seed(options.seed, self.step, self.ranks.rank))
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * rate_share(self.step, options)
        features, labels, candidates = self._look(images, labels, which)
        with self._autocast():
            losses: dict[str, Tensor] = self.shared(features, candidates.pick(self.words), labels, candidates)
        loss = torch.stack(list(losses.values())).sum()
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimiser)
        nn.utils.clip_grad_norm_(self.objective.parameters(), LONGEST_NORM)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.step += 1
        return {"loss": loss.detach(), **{name: value.detach() for name, value in losses.items()}}

    def _look(
        self, images: Tensor, labels: Tensor, which: Tensor
    ) -> tuple[ImageFeatures, Tensor, Candidates]:
        """Features, labels and candidates of a batch, on the device."""
        images, labels, which = (t.to(self.ranks.device, non_blocking=True) for t in (images, labels, which))
        features = self._features(images)
        known = self.known[which]  # (B, K)
        means = F.normalize(self.words.mean(1), dim=-1)
        true = present(labels, len(self.words), ignore=IGNORE)
        candidates = choose(
            true,
            elected(features, means, known, self.pair.logit_scale),
            distractors=self.options.distractors,
            pool=known,
            most=max(self.options.candidates, int(true.sum(1).max())),
        )
        return features, labels, candidates

    def _fit_bias(self) -> None:
        """Start the pixel loss's bias where the mean probability is the share of right candidates."""
        found = []
        with torch.no_grad():
            for index in range(BIAS_IMAGES):
                image, labels, which = self.samples[index]
                features, _, candidates = self._look(image[None], labels[None], torch.tensor([which]))
                with self._autocast():
                    output = self.objective.network(features, candidates.pick(self.words), candidates.mask)
                found.append(output.logits[0].flatten(1))  # (M, h * w), one of M is right at a position
            logits = torch.cat([one.flatten() for one in found])
            share = sum(one.shape[1] for one in found) / len(logits)
            self.objective.bias.copy_(even_bias(logits, share))

    def _features(self, images: Tensor) -> ImageFeatures:
        with self._autocast():
            return self.pair.features(images.float())

    def _autocast(self) -> torch.autocast:
        dtype = PRECISIONS[self.options.precision]
        return torch.autocast(self.ranks.device.type, dtype, enabled=dtype != torch.float32)

    def _words(self, names: Sequence[str]) -> Tensor:
        return self.pair.words(names).to(self.ranks.device)

    def _mean_losses(self, sums: dict[str, Tensor], steps: int) -> dict[str, float]:
        """Means over the processes and the steps since the last report, with rate and time."""
        total = self.ranks.add_up(torch.stack(list(sums.values()))) / (steps * self.ranks.world)
        losses = dict(zip(sums, total.tolist(), strict=True))
        if not math.isfinite(losses["loss"]):
            raise RuntimeError(
                f"expected a finite loss up to step {self.step}, got {losses}; start a new run with a lower"
                " rate or with precision fp32"
            )
        return {"seconds": self.seconds, "rate": self.optimiser.param_groups[0]["lr"], **losses}

    def _evaluate(self, log: RunLog | None, console: Console) -> None:
        for dataset, words in self.evaluation:
            matrix = self.evaluate(dataset, words)
            if log:
                log.evaluation(self.step, dataset, matrix.mean_iou, matrix.pixel_accuracy)
                console.print(
                    f"step {self.step}, {dataset.name}: mIoU {matrix.mean_iou:.4f},"
                    f" pixel accuracy {matrix.pixel_accuracy:.4f}"
                )

    def _save(self) -> None:
        if self.ranks.first:
            state = {
                "identity": self.identity,
                "step": self.step,
                "seconds": self.seconds,
                "objective": self.objective.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "scaler": self.scaler.state_dict(),
            }
            # A run that is killed while it writes must still find the checkpoint before.
            torch.save(state, self.folder / "last.pt.part")
            os.replace(self.folder / "last.pt.part", self.folder / "last.pt")
            checkpoint.save(self.objective.network, self.folder / "network.pt")
        self.ranks.wait()

    def _resume(self, path: Path) -> None:
        state = torch.load(path, map_location=self.ranks.device, weights_only=True)
        theirs = state["identity"]
        other = [key for key, value in self.identity.items() if theirs.get(key) != value]
        if other:
            raise ValueError(
                f"expected the run in {path} to go on with the same data and options, got others:"
                f" {', '.join(other)}; give them as before, or another folder for a new run"
            )
        self.objective.load_state_dict(state["objective"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.seconds = state["step"], state["seconds"]


def _step_seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def _groups(objective: Objective, options: FullOptions) -> list[dict[str, Any]]:
    """Matrices and kernels, which decay; biases, norms and scales, which do not."""
    parameters = list(objective.parameters())
    return [
        {
            "params": [p for p in parameters if p.dim() > 1],
            "peak": options.rate,
            "weight_decay": options.decay,
        },
        {"params": [p for p in parameters if p.dim() <= 1], "peak": options.rate, "weight_decay": 0.0},
    ]
