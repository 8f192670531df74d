"""One of several processes that train together on the CPU: ranks_worker.py TREE RUN STEPS, by torchrun."""

import io
import sys
from pathlib import Path

import torch
from made_up import ColourPair, small_config
from rich.console import Console

from ovs_ros.training.datasets.open import open_dataset
from ovs_ros.training.distributed import join_ranks
from ovs_ros.training.train_full import Every, FullOptions, FullTrainer

if __name__ == "__main__":
    torch.set_num_threads(1)
    tree, run, steps = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    with join_ranks("cpu") as ranks:
        trainer = FullTrainer(
            FullOptions(steps=steps, batch=4, crop=6, rate=3e-3, warm_up=2),
            small_config(),
            ColourPair(),
            [open_dataset("folder", tree, "train")],
            [open_dataset("folder", tree, "val")],
            run,
            ranks,
            every=Every(log=2, evaluate=4, save=4),
        )
        trainer.train(Console(file=io.StringIO()))
        torch.save(trainer.objective.state_dict(), run / f"rank_{ranks.rank}.pt")
