"""The training run of `full`: it learns, it goes on where it was stopped, and processes share it."""

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
pytest.importorskip("tensorboard", reason="tensorboard is not installed (pip install '.[train]')")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from training.made_up import ColourPair, small_config, write_tree  # noqa: E402

from ovs_ros.training.augmentation import random_view  # noqa: E402
from ovs_ros.training.datasets.dataset import IGNORE, SegmentationDataset, lookup_table  # noqa: E402
from ovs_ros.training.datasets.open import open_dataset  # noqa: E402
from ovs_ros.training.distributed import Ranks  # noqa: E402
from ovs_ros.training.samples import Places, Samples, join_sets  # noqa: E402
from ovs_ros.training.train_full import (  # noqa: E402
    BIAS_IMAGES,
    Every,
    FullOptions,
    FullTrainer,
    best_precision,
    elected,
    prepare,
    rate_share,
)
from ovs_ros.zoo.coarse_to_fine import checkpoint  # noqa: E402
from ovs_ros.zoo.coarse_to_fine.network_inputs import ImageFeatures  # noqa: E402

CPU = Ranks(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    write_tree(root)
    return root


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def trainer(tree: Path, folder: Path, *, residual: bool = True, **changes: object) -> FullTrainer:
    options = {"steps": 8, "batch": 2, "crop": 6, "rate": 3e-3, "warm_up": 2, **changes}
    return FullTrainer(
        FullOptions(**options),
        small_config(residual=residual),
        ColourPair(),
        [open_dataset("folder", tree, "train")],
        [open_dataset("folder", tree, "val")],
        folder,
        CPU,
        every=Every(log=2, evaluate=4, save=3),
    )


def quiet() -> Console:
    return Console(file=io.StringIO())


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_loss_falls_and_the_network_comes_back_from_disk(tree: Path, tmp_path: Path) -> None:
    run = trainer(tree, tmp_path, steps=40, batch=4, rate=1e-2, residual=False)
    dataset, words = run.evaluation[0]
    fresh = run.evaluate(dataset, words).mean_iou
    run.train(quiet())
    losses = [float(row["loss"]) for row in rows(tmp_path / "losses.csv")]
    assert len(losses) == 20
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    results = rows(tmp_path / "evaluation.csv")
    assert [int(row["step"]) for row in results] == list(range(4, 41, 4))
    assert float(results[-1]["miou"]) > fresh + 0.15
    network = checkpoint.load(tmp_path / "network.pt")
    for name, value in run.objective.network.state_dict().items():
        assert torch.equal(value, network.state_dict()[name]), name
    assert any((tmp_path / "events").iterdir())


def test_the_bias_is_fitted_before_the_first_step(tree: Path, tmp_path: Path) -> None:
    """With it the mean probability of the four categories is a quarter, without it far from that."""
    run = trainer(tree, tmp_path, distractors=4)
    views, labels, which = zip(*(run.samples[place] for place in range(BIAS_IMAGES)), strict=True)
    features, _, candidates = run._look(torch.stack(views), torch.stack(labels), torch.tensor(which))
    assert candidates.mask.shape == (BIAS_IMAGES, 4) and candidates.mask.all()
    with torch.no_grad():
        logits = run.objective.network(features, candidates.pick(run.words), candidates.mask).logits
        assert abs(logits.sigmoid().mean() - 0.25) > 0.1
        assert abs((logits + run.objective.bias).sigmoid().mean() - 0.25) < 0.001


def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = trainer(tree, tmp_path / "straight")
    straight.train(quiet())
    make = FullTrainer._make_step

    def killed(self: FullTrainer, *batch: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.step == 5:
            raise KeyboardInterrupt
        return make(self, *batch)

    monkeypatch.setattr(FullTrainer, "_make_step", killed)
    with pytest.raises(KeyboardInterrupt):
        trainer(tree, tmp_path / "stopped").train(quiet())
    monkeypatch.undo()
    # What else draws random numbers between must not matter.
    torch.rand(7)
    resumed = trainer(tree, tmp_path / "stopped")
    assert resumed.step == 3
    resumed.train(quiet())
    for kind in ("objective", "optimiser"):
        want, got = (getattr(t, kind).state_dict() for t in (straight, resumed))
        assert_equal(want, got)
    want, got = (rows(tmp_path / name / "evaluation.csv") for name in ("straight", "stopped"))
    assert want == got
    steps = [row["step"] for row in rows(tmp_path / "stopped" / "losses.csv")]
    assert steps == ["2", "4", "6", "8"]


def assert_equal(want: object, got: object) -> None:
    """Bit by bit, through dictionaries and lists."""
    if isinstance(want, torch.Tensor):
        assert torch.equal(want, got)
    elif isinstance(want, dict):
        assert want.keys() == got.keys()
        for key in want:
            assert_equal(want[key], got[key])
    elif isinstance(want, (list, tuple)):
        assert len(want) == len(got)
        for one, other in zip(want, got, strict=True):
            assert_equal(one, other)
    else:
        assert want == got


def test_a_finished_run_has_nothing_left_to_do(tree: Path, tmp_path: Path) -> None:
    trainer(tree, tmp_path, steps=3).train(quiet())
    before = (tmp_path / "losses.csv").read_bytes()
    again = trainer(tree, tmp_path, steps=3)
    assert again.step == 3
    again.train(quiet())
    assert (tmp_path / "losses.csv").read_bytes() == before


def test_another_run_in_the_same_folder_is_refused(tree: Path, tmp_path: Path) -> None:
    trainer(tree, tmp_path, steps=3).train(quiet())
    with pytest.raises(ValueError, match=r"got others: steps, rate;"):
        trainer(tree, tmp_path, steps=4, rate=1e-3)


def test_two_processes_share_a_run(tree: Path, tmp_path: Path) -> None:
    """Both end with the same weights, and what they measure together is what one measures alone."""
    shared = tmp_path / "shared"
    torchrun(tree, shared, 8)
    states = [torch.load(shared / f"rank_{rank}.pt", weights_only=True) for rank in range(2)]
    assert_equal(states[0], states[1])
    losses = [float(row["loss"]) for row in rows(shared / "losses.csv")]
    assert len(losses) == 4 and losses[-1] < losses[0]
    assert [row["step"] for row in rows(shared / "evaluation.csv")] == ["4", "8"]
    state = torch.load(shared / "last.pt", weights_only=True)
    assert state["step"] == 8
    whole = trainer(tree, tmp_path / "whole")
    whole.objective.load_state_dict(state["objective"])
    dataset, words = whole.evaluation[0]
    assert f"{whole.evaluate(dataset, words).mean_iou:.4f}" == rows(shared / "evaluation.csv")[-1]["miou"]


def torchrun(tree: Path, run: Path, steps: int) -> None:
    here = Path(__file__).parent
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    root = here.parents[1]
    env = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{here}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(here / "ranks_worker.py"), str(tree), str(run), str(steps)],
        env=env,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_mixed_precision_trains_too(tree: Path, tmp_path: Path) -> None:
    # Without the residual it starts far from the answer, so that noise does not hide what it learns.
    run = trainer(tree, tmp_path, steps=24, batch=4, rate=1e-2, precision="bf16", residual=False)
    run.train(quiet())
    losses = [float(row["loss"]) for row in rows(tmp_path / "losses.csv")]
    assert np.mean(losses[-3:]) < 0.85 * np.mean(losses[:3])
    assert all(p.dtype == torch.float32 for p in run.objective.parameters())


def test_half_precision_needs_a_gpu(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a GPU"):
        trainer(tree, tmp_path, precision="fp16")
    assert best_precision(torch.device("cpu")) == "fp32"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps to be at least 1"),
        ({"rate": 0.0}, "rate above 0"),
        ({"schedule": "flat"}, "poly, cosine, got 'flat'"),
        ({"precision": "int8"}, "fp32, bf16, fp16, got 'int8'"),
        ({"distractors": -1}, "distractors to be at least 0"),
    ],
)
def test_impossible_options_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FullOptions(**changes)


@pytest.mark.parametrize("schedule", ["poly", "cosine"])
def test_the_rate_rises_and_then_falls(schedule: str) -> None:
    options = FullOptions(steps=1000, warm_up=50, schedule=schedule)
    shares = [rate_share(step, options) for step in range(1000)]
    top = int(np.argmax(shares))
    assert 40 <= top <= 60 and 0.9 < shares[top] <= 1.0
    assert all(np.diff(shares[:top]) > 0) and all(np.diff(shares[top:]) < 0)
    assert 0 < shares[-1] < 0.01


def test_a_patch_elects_the_word_it_fits_and_only_words_that_are_known() -> None:
    words = torch.eye(4)
    patches = torch.stack([words[0], words[0], words[2]]).view(1, 1, 3, 4)
    features = ImageFeatures(patches=patches, image=words[:1])
    known = torch.tensor([[True, True, True, True]])
    assert elected(features, words, known, 20.0).tolist() == [[True, False, True, False]]
    assert elected(features, words, torch.tensor([[False, True, False, True]]), 20.0)[0, [0, 2]].tolist() == [
        False,
        False,
    ]


def made_up_set(name: str, names: tuple[str, ...]) -> SegmentationDataset:
    return SegmentationDataset(name, names, ((Path(), Path()),) * 3, lookup_table(dict.fromkeys(range(2), 0)))


def test_sets_share_the_names_that_they_share() -> None:
    first = SegmentationDataset("a", ("wall", "floor"), (), lookup_table({1: 0, 2: 1}))
    second = SegmentationDataset("b", ("door", "wall"), (), lookup_table({0: 0, 1: 1}))
    joined = join_sets([first, second])
    assert joined.names == ("wall", "floor", "door")
    assert joined.known.tolist() == [[True, True, False], [True, False, True]]
    assert joined.datasets[0].lookup[[0, 1, 2]].tolist() == [IGNORE, 0, 1]
    assert joined.datasets[1].lookup[[0, 1, 2]].tolist() == [2, 0, IGNORE]


def test_every_pass_shows_every_image_once_in_another_order(tree: Path) -> None:
    sets = join_sets([open_dataset("folder", tree, split) for split in ("train", "val")])
    samples = Samples(sets, (24, 24), seed=3)
    count = len(samples)
    assert count == 12
    which = [[samples[place][2] for place in range(turn * count, (turn + 1) * count)] for turn in range(2)]
    assert all(sorted(w) == [0] * 6 + [1] * 6 for w in which)
    assert which[0] != which[1]


def test_processes_take_turns_in_a_step() -> None:
    whole = list(Places(2, 4, 6, 0, 1))
    halves = [list(Places(2, 4, 6, rank, 2)) for rank in range(2)]
    assert whole == [[*a, *b] for a, b in zip(*halves, strict=True)] == [[*range(12, 18)], [*range(18, 24)]]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 10_000))
def test_views_keep_labels_on_their_pixels(height: int, width: int, seed: int) -> None:
    label = np.zeros((height, width), np.uint16)
    label[:, width // 2 :] = 300
    image = np.where(label[..., None] > 0, 250, 5).astype(np.uint8).repeat(3, axis=2)
    view, labels = random_view(image, label, (24, 32), np.random.default_rng(seed))
    assert view.shape == (24, 32, 3) and view.dtype == np.uint8
    assert labels.shape == (24, 32) and labels.dtype == np.uint16
    assert set(np.unique(labels)) <= {0, 300, IGNORE}
    light, dark = view[labels == 300], view[labels == 0]
    if light.size and dark.size:
        assert light.mean() > dark.mean()
    # Padding is at the bottom and at the right.
    known = labels != IGNORE
    assert known[0, 0] and known.sum() == known.any(1).sum() * known.any(0).sum()


def test_views_have_the_labels_border_where_the_image_has_its_border() -> None:
    label = np.zeros((97, 130), np.uint16)
    label[41:] = 1
    image = np.where(label[..., None] > 0, 190, 60).astype(np.uint8).repeat(3, axis=2)
    apart = []
    for seed in range(100):
        view, labels = random_view(image, label, (48, 64), np.random.default_rng(seed))
        rows = labels[:, 0] != IGNORE
        shade, names = view[rows, 0].mean(axis=1), labels[rows, 0]
        if len(np.unique(names)) == 2 and shade.min() > 5 and shade.max() < 250:  # Not cut off by 0 or 255.
            border = ((shade.max() - shade) / np.ptp(shade)).sum()  # In rows, and parts of one.
            apart.append((names == 0).sum() - border)
    assert len(apart) > 50 and abs(np.mean(apart)) < 0.1


def test_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="'full' or 'embedded', got 'huge'"):
        prepare("huge")
