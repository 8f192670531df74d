"""What a training run writes down: CSV files and TensorBoard's events; a resumed run goes on with them."""

import csv
from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from ovs_ros.training.datasets.dataset import SegmentationDataset


class RunLog:
    """Writes `losses.csv`, `evaluation.csv` and TensorBoard's events into a run's folder.

    Args:
        folder: of the run.
        step: the step that the run goes on from; what was written for later steps is dropped.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._folder = folder
        for name in ("losses.csv", "evaluation.csv"):
            _drop_after(folder / name, step)
        self._events = SummaryWriter(str(folder / "events"), purge_step=step + 1)

    def losses(self, step: int, values: Mapping[str, float]) -> None:
        """Add the losses, the rate and the time at a step."""
        _append(self._folder / "losses.csv", {"step": step, **{k: f"{v:.6g}" for k, v in values.items()}})
        for key, value in values.items():
            self._events.add_scalar(f"training/{key}", value, step)

    def evaluation(self, step: int, dataset: SegmentationDataset, miou: float, accuracy: float) -> None:
        """Add the result on a set at a step."""
        row = {"step": step, "set": dataset.name, "miou": f"{miou:.4f}", "pixel_accuracy": f"{accuracy:.4f}"}
        _append(self._folder / "evaluation.csv", row)
        self._events.add_scalar(f"{dataset.name}/mIoU", miou, step)
        self._events.add_scalar(f"{dataset.name}/pixel accuracy", accuracy, step)

    def close(self) -> None:
        """Write out what is left."""
        self._events.close()


def _append(path: Path, row: Mapping[str, object]) -> None:
    fresh = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
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
