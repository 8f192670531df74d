"""One of several processes that train together on the CPU: ranks_worker.py TREE RUN, by torchrun."""

import io
import sys
from pathlib import Path

import torch
from rich.console import Console
from training.made_up import PARTS, colour_pair

from ovs_ros.training.datasets import open_dataset
from ovs_ros.training.distributed import join_ranks
from ovs_ros.training.loop import train
from ovs_ros.training.options import NetworkOptions
from ovs_ros.training.recipes.network import NetworkRecipe

if __name__ == "__main__":
    torch.set_num_threads(1)
    tree, run = Path(sys.argv[1]), Path(sys.argv[2])
    with join_ranks("cpu") as ranks:
        recipe = NetworkRecipe(
            NetworkOptions(
                steps=8,
                batch=4,
                size="full",
                parts=PARTS,
                rate=3e-3,
                warm_up=2,
                workers=0,
                log_every=2,
                evaluate_every=4,
            ),
            ranks,
            colour_pair(),
            [open_dataset("folder", tree, "train")],
            [open_dataset("folder", tree, "val")],
        )
        train(recipe, run, Console(file=io.StringIO()))
        torch.save(recipe.model.state_dict(), run / f"rank_{ranks.rank}.pt")
