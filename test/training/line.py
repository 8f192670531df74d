"""A recipe that fits a line; by torchrun, `line.py RUN` fits it in several processes."""

import io
import sys
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from ovs_ros.training.distributed import Ranks, join_ranks
from ovs_ros.training.loop import Recipe, train
from ovs_ros.training.options import Options

SHORT = {
    "steps": 8, "batch": 4, "rate": 0.1, "warm_up": 2, "log_every": 2, "evaluate_every": 4, "save_every": 3,
}  # fmt: skip


class Line(Recipe):
    """Fits y = 3 x; a flat loss comes every second step."""

    loss_names = ("line", "flat")

    def __init__(self, options: Options, ranks: Ranks) -> None:
        super().__init__(options, ranks)
        self.model = torch.nn.Linear(1, 1)
        self.identity = {"slope": 3}

    def parameter_groups(self) -> list[dict[str, object]]:
        return [{"params": list(self.model.parameters()), "lr": self.options.rate, "weight_decay": 0.0}]

    def loss(self, step: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        # The whole batch follows from the step; each process takes its share.
        x = np.random.default_rng(step).uniform(-1, 1, (self.options.batch, 1)).astype(np.float32)
        x = torch.from_numpy(x[self.ranks.rank :: self.ranks.world])
        with self.autocast():
            line = self.model(x)
        losses = {"line": (line.float() - 3 * x).square().mean()}
        return losses if step % 2 else {**losses, "flat": torch.tensor(0.01)}

    def evaluate(self) -> dict[str, dict[str, float]]:
        return {"line": {"miou": -abs(self.model.weight.item() - 3)}}

    def save(self, folder: Path) -> None:
        (folder / "line.txt").write_text(str(self.model.weight.item()))


if __name__ == "__main__":
    torch.set_num_threads(1)
    with join_ranks("cpu") as ranks:
        recipe = Line(Options(**SHORT), ranks)
        train(recipe, Path(sys.argv[1]), Console(file=io.StringIO()))
        torch.save(recipe.model.state_dict(), Path(sys.argv[1]) / f"rank_{ranks.rank}.pt")
