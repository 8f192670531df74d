#!/usr/bin/env python3
"""Train the rows of docs/research/ablations.md over the embedded model, evaluate them, and print the table.

    python scripts/ablate_network.py DATA -o runs/ablation

What is there already is not done again, so the command may be stopped and given again. DATA holds the sets of
`ovs train embedded`. Networks learn from five of them and are measured on all, on images held out.
"""

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from ovs_ros.zoo.coarse_to_fine import checkpoint
from ovs_ros.zoo.coarse_to_fine.network_inputs import ImageFeatures

FAMILIAR = ("nyuv2", "camvid", "voc", "ccp", "carparts")
"""Sets that the networks learn from. Those left out have unions among their classes."""
NEW = ("facades", "campus", "idd")
FINE = "nyuv2 fine"
"""The finer names of NYUv2: the encoder learned them, the networks did not."""
TRAINING = ("--steps", "200", "--warm-up", "20", "--rate", "6e-4", "--candidates", "24", "--distractors", "8")
ROWS: dict[str, tuple[str, ...]] = {
    "plain cosines": (),
    "DCP-CLIP": ("--parts", "levels=0"),
    "alignment alone": ("--parts", "spatial=none"),
    "all of FGAseg's parts": ("--parts", "class_layers=2,pixel_to_text=true,local_kernels=3"),
    "class aggregation": ("--parts", "class_layers=2"),
    "P2Tformer": ("--parts", "pixel_to_text=true"),
    "local kernels": ("--parts", "local_kernels=3"),
    "without the losses beside BCE": ("--no-alignment",),
    "one doubling": ("--parts", "levels=1"),
    "queries and keys of each category": ("--parts", "spatial=category"),
}
"""Row -> what `ovs train network` is given; nothing is trained for the first."""
SHAPE = (24, 32)
WORDS = 12
"""Patches of a 640x480 frame, and how many of its words are refined: what operations are counted for."""


def main(arguments: Sequence[str]) -> None:
    """Do what is missing, then print the table.

    Raises:
        subprocess.CalledProcessError: a command failed.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with a folder for each set")
    parser.add_argument("--output", "-o", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=2, help="runs of each row")
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS), help="which rows")
    given = parser.parse_args(arguments)
    for seed in range(given.seeds):
        for row in given.rows:
            if ROWS[row] or seed == 0:
                run_row(given.data, given.output, row, seed)
    print_table(given.output, given.rows, given.seeds)


def run_row(data: Path, output: Path, row: str, seed: int) -> None:
    """Train a row's network, if it has one, and evaluate it on every set."""
    run = folder(output, row, seed)
    model = ["--model", "stream", "--no-network"]
    if ROWS[row]:
        model = ["--model", str(run)]
        if not (run / "network.onnx").exists():
            sets = [f"folder={data / name}" for name in FAMILIAR]
            ovs("train", "network", *sets, "-o", str(run), *TRAINING, *ROWS[row], "--seed", str(seed))
    run.mkdir(parents=True, exist_ok=True)
    for name in (*FAMILIAR, *NEW, FINE):
        result = run / f"{name.replace(' ', '_')}.json"
        if result.exists():
            continue
        place = name.split()[0]
        split = data / place / ("val" if (data / place / "val").is_dir() else "train")
        asked = ["--labels", "fine", "--images", "60"] if name == FINE else ["--held-out"]
        ovs("evaluate", str(split), *asked, *model, "--json", str(result))


def folder(output: Path, row: str, seed: int) -> Path:
    """Where a run of a row is."""
    return output / f"{row.replace(' ', '_').replace(chr(39), '')}-{seed}"


def ovs(*arguments: str) -> None:
    """Run a command of the project, and show nothing of it unless it fails."""
    print("ovs", *arguments, file=sys.stderr, flush=True)
    done = subprocess.run(("ovs", *arguments), capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout, done.stderr, file=sys.stderr)
        done.check_returncode()


def cost(run: Path) -> tuple[str, str]:
    """A network's parameters in thousands, and the GFLOPs of a frame."""
    network = checkpoint.load(run / "network.pt")[0].eval()
    config = network.config
    h, w = SHAPE
    features = ImageFeatures(
        torch.rand(1, h, w, config.dim),
        torch.rand(1, config.dim),
        tuple(torch.rand(1, h, w, width) for width in config.shallow),
    )
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(features, torch.rand(1, WORDS, config.prompts, config.dim))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return f"{parameters / 1e3:.0f}", f"{counter.get_total_flops() / 1e9:.2f}"


def print_table(output: Path, rows: Sequence[str], seeds: int) -> None:
    """The table in Markdown: mIoU of each seed, and what a row costs."""
    names = (*FAMILIAR, *NEW, FINE)
    table = csv.writer(sys.stdout, delimiter="|", lineterminator="\n")
    table.writerow(["row", *names, "mean", "thousand parameters", "GFLOPs"])
    table.writerow(["---"] * (len(names) + 4))
    for row in rows:
        runs = [run for seed in range(seeds) if (run := folder(output, row, seed)).is_dir()]
        figures = np.array([[miou(run, name) for name in names] for run in runs])  # (seeds, sets)
        cells = [" / ".join(f"{value:.3f}" for value in column) for column in figures.T]
        mean = " / ".join(f"{value:.4f}" for value in figures.mean(1))
        table.writerow([row, *cells, mean, *(cost(runs[0]) if ROWS[row] else ("0", "0"))])


def miou(run: Path, name: str) -> float:
    """A run's figure on a set; NaN where it is missing."""
    result = run / f"{name.replace(' ', '_')}.json"
    return float(json.loads(result.read_text())["miou"]) if result.exists() else float("nan")


if __name__ == "__main__":
    main(sys.argv[1:])
