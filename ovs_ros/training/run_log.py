"""What a training run writes down: CSV files and TensorBoard's events; a resumed run goes on with them."""

import csv
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path


class RunLog:
    """Writes `losses.csv`, `evaluation.csv` and, where tensorboard is installed, `events/` into a folder.

    Args:
        folder: of the run.
        step: the step that the run goes on from; what was written for later steps is dropped.
        columns: of `losses.csv`, after the step.
    """

    def __init__(self, folder: Path, step: int, columns: Sequence[str]) -> None:
        self._folder, self._columns = folder, ("step", *columns)
        for name in ("losses.csv", "evaluation.csv"):
            _drop_after(folder / name, step)
        self._events = None
        if find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(folder / "events"), purge_step=step + 1)

    def losses(self, step: int, values: Mapping[str, float]) -> None:
        """Add the losses, the rate and the time at a step."""
        row = {"step": step, **{name: f"{value:.6g}" for name, value in values.items()}}
        _append(self._folder / "losses.csv", self._columns, row)
        self._add_events(step, "training", values)

    def evaluation(self, step: int, name: str, figures: Mapping[str, float]) -> None:
        """Add the figures on a set at a step."""
        row = {"step": step, "set": name, **{figure: f"{value:.4f}" for figure, value in figures.items()}}
        _append(self._folder / "evaluation.csv", ("step", "set", "miou", "pixel_accuracy"), row)
        self._add_events(step, name, figures)

    def close(self) -> None:
        """Write out what is left."""
        if self._events:
            self._events.close()

    def _add_events(self, step: int, group: str, values: Mapping[str, float]) -> None:
        if self._events:
            for name, value in values.items():
                self._events.add_scalar(f"{group}/{name}", value, step)


def _append(path: Path, columns: Sequence[str], row: Mapping[str, object]) -> None:
    fresh = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        if fresh:
            writer.writeheader()
        writer.writerow(row)


def _drop_after(path: Path, step: int) -> None:
    """Drop the rows of later steps: they were lost with the run that wrote them."""
    if not path.exists():
        return
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *(row for row in rows if int(row[0]) <= step)])
