"""The loop with a recipe of a few weights: it resumes, averages, and shares a run among processes."""

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

from training.line import SHORT, Line  # noqa: E402

from ovs_ros.training.distributed import Ranks  # noqa: E402
from ovs_ros.training.loop import best_precision, rate_share, train  # noqa: E402
from ovs_ros.training.options import NetworkOptions, Options  # noqa: E402

CPU = Ranks(0, 1, torch.device("cpu"))


def run(folder: Path, **changes: object) -> Line:
    """A run of 8 steps that is evaluated every 4 and saved every 3."""
    recipe = Line(Options(**{**SHORT, **changes}), CPU)
    train(recipe, folder, Console(file=io.StringIO()))
    return recipe


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def checkpoint(folder: Path) -> dict[str, object]:
    return torch.load(folder / "last.pt", weights_only=True)


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


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_loss_falls_and_is_written_down(tmp_path: Path, precision: str) -> None:
    recipe = run(tmp_path, steps=60, precision=precision)
    losses = [float(row["loss"]) for row in rows(tmp_path / "losses.csv")]
    assert len(losses) == 30 and losses[-1] < 0.2 * losses[0]
    results = rows(tmp_path / "evaluation.csv")
    assert [int(row["step"]) for row in results] == list(range(4, 61, 4))
    assert float(results[-1]["miou"]) > float(results[0]["miou"])
    assert all(p.dtype == torch.float32 for p in recipe.model.parameters())


def test_losses_that_come_every_second_step_are_means_over_their_own_steps(tmp_path: Path) -> None:
    run(tmp_path, steps=4, rate=1e-9)
    first = rows(tmp_path / "losses.csv")[0]
    assert set(first) == {"step", "seconds", "rate", "loss", "line", "flat"}
    assert float(first["flat"]) == pytest.approx(0.01)
    assert float(first["loss"]) == pytest.approx(float(first["line"]) + 0.005, abs=1e-4)


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, average: float
) -> None:
    run(tmp_path / "straight", average=average)
    loss = Line.loss

    def killed(self: Line, step: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        if step == 5:
            raise KeyboardInterrupt
        return loss(self, step, rng)

    monkeypatch.setattr(Line, "loss", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", average=average)
    monkeypatch.undo()
    assert checkpoint(tmp_path / "stopped")["step"] == 3
    # What else draws random numbers between must not matter.
    torch.rand(7)
    run(tmp_path / "stopped", average=average)
    want, got = (checkpoint(tmp_path / name) for name in ("straight", "stopped"))
    for state in (want, got):
        state.pop("seconds")
    assert_equal(want, got)
    assert (tmp_path / "straight" / "line.txt").read_text() == (tmp_path / "stopped" / "line.txt").read_text()
    results = (rows(tmp_path / folder / "evaluation.csv") for folder in ("straight", "stopped"))
    assert next(results) == next(results)
    assert [row["step"] for row in rows(tmp_path / "stopped" / "losses.csv")] == ["2", "4", "6", "8"]


def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path) -> None:
    run(tmp_path)
    before = (tmp_path / "losses.csv").read_bytes(), (tmp_path / "line.txt").read_text()
    run(tmp_path, log_every=1)
    assert before == ((tmp_path / "losses.csv").read_bytes(), (tmp_path / "line.txt").read_text())


def test_another_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(ValueError, match=r"got others: steps, rate, precision;"):
        run(tmp_path, steps=9, rate=1e-3, precision="bf16")


def test_the_average_is_evaluated_and_saved_and_the_weights_go_on(tmp_path: Path) -> None:
    """With a rate that throws the weights about, their average is another one, and training is the same."""
    plain, averaged = (
        run(tmp_path / name, rate=0.5, average=average) for name, average in (("plain", 0.0), ("mean", 0.9))
    )
    assert torch.equal(plain.model.weight, averaged.model.weight)
    saved = (float((tmp_path / name / "line.txt").read_text()) for name in ("plain", "mean"))
    assert abs(next(saved) - next(saved)) > 1e-3


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = Line.loss
    monkeypatch.setattr(
        Line, "loss", lambda *given: {name: one * torch.inf for name, one in loss(*given).items()}
    )
    with pytest.raises(RuntimeError, match="expected a finite loss up to step 2"):
        run(tmp_path)


def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    here = Path(__file__).parent
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    env = {**os.environ, "PYTHONPATH": f"{here.parents[1]}{os.pathsep}{here}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(here / "line.py"), str(tmp_path / "two")],
        env=env, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / "two" / f"rank_{rank}.pt", weights_only=True) for rank in range(2))
    assert_equal(first, second)
    alone = run(tmp_path / "one")
    for name, value in alone.model.state_dict().items():
        torch.testing.assert_close(value, first[name])
    for name in ("losses.csv", "evaluation.csv"):
        for one, two in zip(*(rows(tmp_path / folder / name) for folder in ("one", "two")), strict=True):
            for key in set(one) - {"seconds", "set"}:
                assert float(one[key] or 0) == pytest.approx(float(two[key] or 0), rel=1e-3)


def test_half_precision_needs_a_gpu_and_a_batch_must_be_shared_evenly() -> None:
    with pytest.raises(ValueError, match="expected a GPU"):
        Line(Options(precision="fp16"), CPU)
    assert best_precision(torch.device("cpu")) == "fp32"
    with pytest.raises(ValueError, match="3 processes can share evenly, got 4"):
        Line(Options(batch=4), Ranks(0, 3, torch.device("cpu")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps .*got 0"),
        ({"rate": 0.0}, "rate .*got 0.0"),
        ({"schedule": "flat"}, "cosine, poly, got 'flat'"),
        ({"precision": "int8"}, "fp32, bf16, fp16, got 'int8'"),
        ({"distractors": -1}, "distractors .*got -1"),
        ({"size": "huge"}, "auto, full, embedded, got 'huge'"),
    ],
)
def test_impossible_options_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NetworkOptions(**changes)


@pytest.mark.parametrize("schedule", ["poly", "cosine"])
def test_the_rate_rises_and_then_falls(schedule: str) -> None:
    options = Options(steps=1000, warm_up=50, schedule=schedule)
    shares = [rate_share(step, options) for step in range(1000)]
    top = int(np.argmax(shares))
    assert 40 <= top <= 60 and 0.9 < shares[top] <= 1.0
    assert all(np.diff(shares[:top]) > 0) and all(np.diff(shares[top:]) < 0)
    assert 0 < shares[-1] < 0.01
