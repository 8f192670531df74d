"""What `ovs evaluate` measures: each measure sees every image once, and adds to the table and to the JSON."""

import math
import resource
import sys
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ovs_ros.evaluation.labelled_folder import IGNORED
from ovs_ros.evaluation.metrics import ConfusionMatrix, SelectionRecall
from ovs_ros.evaluation.temperature_scaling import Reliability
from ovs_ros.steps.segmentation import Segmentation


class Measure(Protocol):
    """Something that is counted over images."""

    def add(self, truth: NDArray[np.uint8], result: Segmentation) -> None:
        """Count one image.

        Args:
            truth: (H, W) class indices, 255 where none counts. A class's index is its id in `result`.
            result: what the segmenter made of the image.
        """

    def results(self) -> dict[str, object]:
        """Keys and values for the JSON."""

    def rows(self) -> list[tuple[str, str]]:
        """Names and values for the printed summary."""


class Agreement:
    """Mean intersection over union and pixel accuracy; see `Measure` for the methods.

    Args:
        names: of the classes.
        held_out: those among them whose mean is given apart from that of the others; empty: all together.
    """

    def __init__(self, names: Sequence[str], held_out: frozenset[str] = frozenset()) -> None:
        self.names = tuple(names)
        self.matrix = ConfusionMatrix(len(names))
        self._held_out = np.array([name in held_out for name in names])

    def add(self, truth: NDArray[np.uint8], result: Segmentation) -> None:
        """Count one image."""
        self.matrix.add(truth, result.labels)

    def results(self) -> dict[str, object]:
        """The keys miou, pixel_accuracy and per_class; with held-out names also seen and held_out."""
        iou = self.matrix.iou
        results: dict[str, object] = {
            "miou": rounded(self.matrix.mean_iou),
            "pixel_accuracy": rounded(self.matrix.pixel_accuracy),
            "per_class": {name: rounded(value) for name, value in zip(self.names, iou, strict=True)},
        }
        for key, chosen in self._parts():
            results[key] = {
                "miou": rounded(_mean(iou[chosen])),
                "classes": int((~np.isnan(iou[chosen])).sum()),
            }
        return results

    def rows(self) -> list[tuple[str, str]]:
        """mIoU, of all and by part, and pixel accuracy."""
        iou = self.matrix.iou
        apart = [
            (f"mIoU, {key.replace('_', ' ')}", _shown(_mean(iou[chosen]))) for key, chosen in self._parts()
        ]
        return [
            ("mIoU", _shown(self.matrix.mean_iou)),
            *apart,
            ("pixel accuracy", _shown(self.matrix.pixel_accuracy)),
        ]

    def _parts(self) -> list[tuple[str, NDArray[np.bool_]]]:
        return [("seen", ~self._held_out), ("held_out", self._held_out)] if self._held_out.any() else []


class SelectionReport:
    """Whether selection keeps what is there, and how much it drops; see `Measure` for the methods.

    Args:
        classes: how many classes the truth has.
    """

    def __init__(self, classes: int) -> None:
        self.counts = SelectionRecall(classes)

    def add(self, truth: NDArray[np.uint8], result: Segmentation) -> None:
        """Count one image."""
        self.counts.add(truth, result.selected_ids)

    def results(self) -> dict[str, object]:
        """The key selection."""
        counts = self.counts
        return {
            "selection": {
                "recall": rounded(counts.recall),
                "recall_any": rounded(counts.recall_any),
                "survivors": rounded(counts.mean_survivors),
            }
        }

    def rows(self) -> list[tuple[str, str]]:
        """Recall for two kinds of being there, and the mean number of survivors."""
        counts = self.counts
        return [
            (f"selection recall, from {counts.least_share:.1%} of the pixels", _shown(counts.recall)),
            ("selection recall, from one pixel", _shown(counts.recall_any)),
            ("selected categories per image", f"{counts.mean_survivors:.1f}"),
        ]


class CalibrationReport:
    """How far confidences are from the share of pixels that is right; see `Measure` for the methods.

    Pixels without a name do not count: nothing is claimed of them.
    """

    def __init__(self) -> None:
        self.reliability = Reliability()

    def add(self, truth: NDArray[np.uint8], result: Segmentation) -> None:
        """Count one image."""
        named = (truth != IGNORED) & (result.labels != result.unknown_id)
        self.reliability.add(result.confidence[named], result.labels[named] == truth[named])

    def results(self) -> dict[str, object]:
        """The key ece."""
        return {"ece": rounded(self.reliability.error())}

    def rows(self) -> list[tuple[str, str]]:
        """The expected calibration error, and the mean confidence."""
        reliability = self.reliability
        return [
            ("expected calibration error", _shown(reliability.error())),
            ("mean confidence", _shown(reliability.mean_confidence)),
        ]


def peak_memory_mb() -> float:
    """The most memory that this process ever held, in megabytes of 10^6 bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Bytes on macOS, else KiB.
    return round(most * (1 if sys.platform == "darwin" else 1024) / 1e6, 1)


def rounded(value: float) -> float | None:
    """Four digits; JSON has no NaN."""
    return None if math.isnan(value) else round(float(value), 4)


def _mean(values: NDArray[np.float64]) -> float:
    there = values[~np.isnan(values)]
    return float(there.mean()) if there.size else float("nan")


def _shown(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4f}"
