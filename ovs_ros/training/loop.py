"""The training loop, and what a stage of training gives it: a `Recipe`.

A run's folder holds `last.pt` (all that a run needs to go on), what the recipe saves, `losses.csv`,
`evaluation.csv` and, where tensorboard is installed, its `events/`. Chance follows from the seed, the step
and the process alone, so a run that was stopped goes on as if it had not been.
"""

import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from ovs_ros.evaluation.metrics import ConfusionMatrix
from ovs_ros.training.distributed import Ranks
from ovs_ros.training.options import Options
from ovs_ros.training.run_log import RunLog

LONGEST_NORM = 1.0
"""Gradients are shortened to this norm."""
FIGURES = {"miou": "mIoU", "pixel_accuracy": "pixel accuracy"}
"""What a recipe can measure, and how it is said."""
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Recipe(ABC):
    """One stage of training: its data, its weights, its losses, and the files it ends in.

    Attributes:
        model: all that is trained, and nothing else.
        loss_names: the keys that `loss` can give, in the log's order.
        identity: what must be the same for a stopped run to go on, beside the options.
        precision: what the model computes in: "fp32", "bf16" or "fp16".

    Raises:
        ValueError: the batch cannot be shared out evenly, or the precision needs a GPU.
    """

    model: nn.Module
    loss_names: tuple[str, ...]
    identity: Mapping[str, Any]

    def __init__(self, options: Options, ranks: Ranks) -> None:
        if options.batch % ranks.world:
            raise ValueError(
                f"expected a batch that {ranks.world} processes can share evenly, got {options.batch}"
            )
        wanted = options.precision
        self.precision = best_precision(ranks.device) if wanted == "auto" else wanted
        if self.precision == "fp16" and ranks.device.type != "cuda":
            raise ValueError("expected a GPU for the precision fp16, got none; take bf16 or fp32")
        self.options, self.ranks, self.device = options, ranks, ranks.device
        torch.manual_seed(options.seed)

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """AdamW's groups: "params", their peak rate "lr" and "weight_decay"."""

    @abstractmethod
    def loss(self, step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """The weighted losses of a step, whose sum is minimised.

        Args:
            step: counted from 0.
            rng: what this process draws from in this step; torch's generator is seeded too.
        """

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Figures, out of `FIGURES`, by the name of what is measured on. Every process gets them all."""
        return {}

    def figures(self, matrix: ConfusionMatrix) -> dict[str, float]:
        """What `evaluate` gives of a set whose images the processes shared out."""
        counts = self.ranks.add_up(torch.from_numpy(matrix.counts).to(self.device))
        matrix.counts = counts.cpu().numpy()
        return {"miou": matrix.mean_iou, "pixel_accuracy": matrix.pixel_accuracy}

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what the stage is trained for. Called in the first process alone."""

    def autocast(self) -> torch.autocast:
        """The context in which a model computes in `precision`."""
        dtype = PRECISIONS[self.precision]
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)


def best_precision(device: torch.device) -> str:
    """The fastest precision that is safe on a device."""
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def rate_share(step: int, options: Options) -> float:
    """The share of the peak rate at a step counted from 0: in (0, 1]."""
    rise = min(1.0, (step + 1) / (options.warm_up + 1))
    left = 1.0 - step / options.steps
    return rise * (left**0.9 if options.schedule == "poly" else 0.5 * (1 - math.cos(math.pi * left)))


class MovingAverage:
    """The moving average of a model's weights, and of the statistics of its batch norms.

    Args:
        model: whose weights change.
        longest: how much of the average stays in a step at most; 0: the average is the weights as they are.
    """

    def __init__(self, model: nn.Module, longest: float) -> None:
        self.model, self.longest = model, longest
        self.values = {name: value.clone() for name, value in self._current().items()} if longest else {}

    def _current(self) -> dict[str, Tensor]:
        return {n: v.detach() for n, v in self.model.state_dict().items() if v.is_floating_point()}

    @torch.no_grad()  # type: ignore[untyped-decorator]  # torch is not installed where types are checked
    def update(self, step: int) -> None:
        """Take in the weights after a step, counted from 1. The first steps are forgotten sooner."""
        if self.longest:
            kept = min(self.longest, step / (step + 20))
            current = self._current()
            for name, value in self.values.items():
                value.lerp_(current[name], 1 - kept)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model its average, and afterwards its own weights again."""
        own = {name: value.clone() for name, value in self._current().items()}
        self.model.load_state_dict(self.values, strict=False)
        self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.model.load_state_dict(own, strict=False)
            self.model.train()


def train(recipe: Recipe, folder: Path, console: Console) -> None:
    """Make the steps that are left of a run.

    Args:
        recipe: the stage.
        folder: of the run. A run that was stopped there goes on.
        console: gets a progress bar and figures, in the first process.

    Raises:
        ValueError: the run in the folder was another.
        RuntimeError: a loss is no longer a finite number.
    """
    options, ranks, model = recipe.options, recipe.ranks, recipe.model.train()
    optimiser = torch.optim.AdamW(recipe.parameter_groups())
    peaks = [group["lr"] for group in optimiser.param_groups]
    scaler = torch.amp.GradScaler(ranks.device.type, enabled=recipe.precision == "fp16")
    average = MovingAverage(model, options.average)
    identity = {
        **{name: value for name, value in asdict(options).items() if name not in options.free},
        "precision": recipe.precision,
        **recipe.identity,
    }
    checkpoint, step, before = folder / "last.pt", 0, 0.0
    if checkpoint.is_file():
        state = torch.load(checkpoint, map_location=ranks.device, weights_only=True)
        check_identity(checkpoint, state["identity"], identity)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        scaler.load_state_dict(state["scaler"])
        average.values, step, before = state["average"], state["step"], state["seconds"]
    folder.mkdir(parents=True, exist_ok=True)
    log = RunLog(folder, step, ("seconds", "rate", "loss", *recipe.loss_names)) if ranks.first else None
    sums: dict[str, Any] = dict.fromkeys(("loss", *recipe.loss_names), 0.0)
    counts: dict[str, int] = {}
    started = time.monotonic()
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=console, disable=not ranks.first,
    )  # fmt: skip
    with bar:
        task = bar.add_task("Training", total=options.steps, completed=step)
        while step < options.steps:
            torch.manual_seed(_step_seed(options.seed, step, ranks.rank))
            for group, peak in zip(optimiser.param_groups, peaks, strict=True):
                group["lr"] = peak * rate_share(step, options)
            losses = recipe.loss(step, np.random.default_rng((options.seed, step, ranks.rank)))
            loss = torch.stack(list(losses.values())).sum()
            optimiser.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            ranks.average_gradients(model)
            scaler.unscale_(optimiser)
            nn.utils.clip_grad_norm_(model.parameters(), LONGEST_NORM)
            scaler.step(optimiser)
            scaler.update()
            ranks.average_statistics(model)
            step += 1
            average.update(step)
            for name, value in {"loss": loss, **losses}.items():
                sums[name] = sums[name] + value.detach()
                counts[name] = counts.get(name, 0) + 1
            seconds, ends = before + time.monotonic() - started, step == options.steps
            if step % options.log_every == 0 or ends:
                total = ranks.add_up(torch.stack([sums[name] for name in counts]))
                means = dict(zip(counts, total.tolist(), strict=True))
                means = {name: value / (counts[name] * ranks.world) for name, value in means.items()}
                if not math.isfinite(means["loss"]):
                    raise RuntimeError(
                        f"expected a finite loss up to step {step}, got {means}; start a new run with a lower"
                        " rate or with precision fp32"
                    )
                bar.update(task, description=f"Training, loss {means['loss']:.4f}")
                if log:
                    log.losses(step, {"seconds": seconds, "rate": optimiser.param_groups[0]["lr"], **means})
                sums, counts = dict.fromkeys(sums, 0.0), {}
            if step % options.evaluate_every == 0 or ends:
                with average.applied():
                    results = recipe.evaluate()
                for name, figures in results.items():
                    if log:
                        log.evaluation(step, name, figures)
                        said = ", ".join(f"{FIGURES[key]} {value:.4f}" for key, value in figures.items())
                        console.print(f"step {step}, {name}: {said}", soft_wrap=True)
            if ranks.first and (step % options.save_every == 0 or ends):
                state = {
                    "identity": identity, "step": step, "seconds": seconds, "model": model.state_dict(),
                    "optimiser": optimiser.state_dict(), "scaler": scaler.state_dict(),
                    "average": average.values,
                }  # fmt: skip
                # A run that is killed while it writes must still find the checkpoint before.
                torch.save(state, folder / "last.pt.part")
                os.replace(folder / "last.pt.part", checkpoint)
                if not ends:
                    with average.applied():
                        recipe.save(folder)
            bar.update(task, completed=step)
    if log:
        log.close()
        with average.applied():
            recipe.save(folder)
    ranks.wait()


def check_identity(path: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Refuse to go on with another run.

    Raises:
        ValueError: naming all that differs.
    """
    other = [key for key, value in ours.items() if theirs.get(key) != value]
    if other:
        raise ValueError(
            f"expected the run in {path} to go on with the same data and options, got others:"
            f" {', '.join(other)}; give them as before, or another folder for a new run"
        )


def _step_seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
