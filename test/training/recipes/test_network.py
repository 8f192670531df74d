"""The training run of `network`: it learns, it goes on where it was stopped, and processes share it."""

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")

from training.made_up import COLOURS, PARTS, colour_pair, write_tree  # noqa: E402

from ovs_ros.training.data import IGNORE  # noqa: E402
from ovs_ros.training.datasets import SegmentationDataset, lookup_table, open_dataset  # noqa: E402
from ovs_ros.training.distributed import Ranks  # noqa: E402
from ovs_ros.training.loop import train  # noqa: E402
from ovs_ros.training.options import NetworkOptions  # noqa: E402
from ovs_ros.training.recipes.network import BIAS_IMAGES, NetworkRecipe  # noqa: E402
from ovs_ros.training.samples import Samples, places  # noqa: E402
from ovs_ros.zoo.coarse_to_fine import checkpoint  # noqa: E402

CPU = Ranks(0, 1, torch.device("cpu"))
OPTIONS = {
    "steps": 8, "batch": 2, "size": "full", "parts": PARTS, "rate": 3e-3, "warm_up": 2, "workers": 0,
    "log_every": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    write_tree(root)
    return root


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def recipe(tree: Path, *, residual: bool = True, **changes: object) -> NetworkRecipe:
    given = {**OPTIONS, **changes}
    given["parts"] += "" if residual else ",residual=false"
    return NetworkRecipe(
        NetworkOptions(**given),
        CPU,
        colour_pair(),
        [open_dataset("folder", tree, "train")],
        [open_dataset("folder", tree, "val")],
    )


def run(tree: Path, folder: Path, **changes: object) -> NetworkRecipe:
    made = recipe(tree, **changes)
    train(made, folder, Console(file=io.StringIO()))
    return made


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_loss_falls_and_the_network_comes_back_from_disk(tree: Path, tmp_path: Path) -> None:
    changes = {"steps": 40, "batch": 4, "rate": 1e-2, "residual": False, "evaluate_every": 20}
    with torch.no_grad():
        fresh = recipe(tree, **changes).evaluate()[tree.name]["miou"]
    made = run(tree, tmp_path, **changes)
    losses = [float(row["pixels"]) for row in rows(tmp_path / "losses.csv")]
    assert len(losses) == 20
    # Patches of 16 pixels hold several of the colours: there is a floor.
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    results = rows(tmp_path / "evaluation.csv")
    assert [int(row["step"]) for row in results] == [20, 40]
    assert float(results[-1]["miou"]) > fresh + 0.08
    network, record = checkpoint.load(tmp_path / "network.pt")
    assert record.names == tuple(COLOURS) and record.templates == ("{}", "a photo of {}")
    for name, value in made.model.network.state_dict().items():
        assert torch.equal(value, network.state_dict()[name]), name


def test_the_bias_is_fitted_before_the_first_step(tree: Path) -> None:
    """With it the mean probability of the four categories is a quarter, without it far from that."""
    made = recipe(tree, distractors=4)
    views, labels, which = zip(*(made.samples[place] for place in range(BIAS_IMAGES)), strict=True)
    encoded, words, _, candidates = made.look(torch.stack(views), torch.stack(labels), torch.tensor(which))
    assert candidates.mask.shape == (BIAS_IMAGES, 4) and candidates.mask.all()
    with torch.no_grad():
        logits, _ = made.model.logits(encoded, words, candidates)
        assert abs(logits.sigmoid().mean() - 0.25) > 0.1
        assert abs((logits + made.model.bias).sigmoid().mean() - 0.25) < 0.001


def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    often = {"save_every": 3, "evaluate_every": 4}
    straight = run(tree, tmp_path / "straight", **often)
    loss = NetworkRecipe.loss

    def killed(self: NetworkRecipe, step: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        if step == 5:
            raise KeyboardInterrupt
        return loss(self, step, rng)

    monkeypatch.setattr(NetworkRecipe, "loss", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tree, tmp_path / "stopped", **often)
    monkeypatch.undo()
    resumed = run(tree, tmp_path / "stopped", **often)
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    want, got = (rows(tmp_path / name / "evaluation.csv") for name in ("straight", "stopped"))
    assert want == got


def test_two_processes_share_a_run(tree: Path, tmp_path: Path) -> None:
    """Both end with the same weights, and what they measure together is what one measures alone."""
    shared = tmp_path / "shared"
    torchrun(tree, shared)
    states = [torch.load(shared / f"rank_{rank}.pt", weights_only=True) for rank in range(2)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    losses = [float(row["loss"]) for row in rows(shared / "losses.csv")]
    assert len(losses) == 4 and np.isfinite(losses).all()
    results = rows(shared / "evaluation.csv")
    assert [row["step"] for row in results] == ["4", "8"]
    whole = recipe(tree)
    whole.model.load_state_dict(states[0])
    with torch.no_grad():
        assert f"{whole.evaluate()[tree.name]['miou']:.4f}" == results[-1]["miou"]


def torchrun(tree: Path, run: Path) -> None:
    here = Path(__file__).parent
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    root = here.parents[2]
    env = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{here.parents[1]}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(here / "ranks_worker.py"), str(tree), str(run)],
        env=env,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_mixed_precision_trains_too(tree: Path, tmp_path: Path) -> None:
    # Without the residual it starts far from the answer, so that noise does not hide what it learns.
    run(tree, tmp_path, steps=24, batch=4, rate=1e-2, precision="bf16", residual=False)
    losses = [float(row["loss"]) for row in rows(tmp_path / "losses.csv")]
    assert np.mean(losses[-3:]) < 0.85 * np.mean(losses[:3])


def test_sets_share_the_names_that_they_share() -> None:
    first = SegmentationDataset("a", ("wall", "floor"), (), lookup_table([1, 2]))
    second = SegmentationDataset("b", ("door", "wall"), (), lookup_table([0, 1]))
    samples = Samples([first, second], (24, 24), seed=0)
    assert samples.names == ("wall", "floor", "door")
    assert samples.known.tolist() == [[True, True, False], [True, False, True]]
    assert samples.datasets[0].lookup[[0, 1, 2]].tolist() == [IGNORE, 0, 1]
    assert samples.datasets[1].lookup[[0, 1, 2]].tolist() == [2, 0, IGNORE]


def test_every_pass_shows_every_image_once_in_another_order(tree: Path) -> None:
    sets = [open_dataset("folder", tree, split) for split in ("train", "val")]
    samples = Samples(sets, (24, 24), seed=3)
    count = len(samples)
    assert count == 12
    which = [[samples[place][2] for place in range(turn * count, (turn + 1) * count)] for turn in range(2)]
    assert all(sorted(w) == [0] * 6 + [1] * 6 for w in which)
    assert which[0] != which[1]


def test_processes_take_turns_in_a_step() -> None:
    options = NetworkOptions(steps=4, batch=6)
    whole = places(options, CPU, 2)
    halves = [places(options, Ranks(rank, 2, CPU.device), 2) for rank in range(2)]
    assert whole == [[*a, *b] for a, b in zip(*halves, strict=True)] == [[*range(12, 18)], [*range(18, 24)]]
