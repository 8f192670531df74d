"""What a long run of the node has measured: how much each figure rises in an hour, and a plot."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

import cv2
import numpy as np
from numpy.typing import NDArray

from ovs_ros.runtime.lettering import line_of_text

WARM_UP = 0.2
"""Share of the samples, at the start, that rises leave out: caches and buffers fill."""
LEAST_JUDGED_S = 600.0
"""Shorter runs are not judged by their rises: buffers still fill, and an hour is too far away."""
MOST_RISE = {"memory_mb": 20.0, "open_files": 2.0, "threads": 2.0}
"""By how much these may rise in an hour."""
LONGEST_GAP = 10
"""How many samples in a row may be without a label image."""
TITLES = {
    "memory_mb": "private memory (MB)",
    "open_files": "open files",
    "threads": "threads",
    "latency_ms": "latency (ms)",
    "frames": "label images a second",
}
_HEIGHT, _WIDTH = 156, 900
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 28, 22
"""Margins of a panel, in pixels."""
_GREY, _SHADE, _BLUE, _RED = (215, 215, 215), (242, 242, 242), (20, 90, 170), (200, 40, 40)


@dataclass(frozen=True)
class Sample:
    """The node at one time.

    Attributes:
        seconds: since the first sample.
        memory_mb: private to the process, in MB of 10^6 bytes.
        open_files: open file descriptors.
        threads: of the process.
        latency_ms: the median from an image's stamp to its label image, of the last second; NaN without one.
        frames: label images of the last second.
    """

    seconds: float
    memory_mb: float
    open_files: int
    threads: int
    latency_ms: float
    frames: int


NAMES = [field.name for field in fields(Sample)]


def table(samples: Sequence[Sample]) -> NDArray[np.float64]:
    """The samples (n, fields), in the order of `NAMES`."""
    return np.array([astuple(one) for one in samples], np.float64)


def lines(samples: Sequence[Sample]) -> dict[str, tuple[float, float]]:
    """For each figure the least-squares line after the warm-up: its rise in an hour, its value at second 0.

    NaN for figures with less than two values.
    """
    rows = table(samples[int(len(samples) * WARM_UP) :])  # (n, fields)
    found = {}
    for name, column in zip(NAMES[1:], rows.T[1:], strict=True):
        there = np.isfinite(column)
        line = np.polyfit(rows[there, 0] / 3600, column[there], 1) if there.sum() > 1 else (np.nan, np.nan)
        found[name] = (float(line[0]), float(line[1]))
    return found


def signed(rise: float) -> str:
    """A rise as text, with its sign; never '-0.0', and empty for NaN."""
    return "" if np.isnan(rise) else f"{round(rise, 1) + 0.0:+.1f}"


def problems(samples: Sequence[Sample]) -> list[str]:
    """One line for each gap without label images, and for each figure that rises more than it may."""
    gap = longest = 0
    for one in samples:
        gap = 0 if one.frames else gap + 1
        longest = max(longest, gap)
    found = [f"{longest} seconds without a label image, expected at most {LONGEST_GAP}"]
    found = found if longest > LONGEST_GAP else []
    if samples[-1].seconds < LEAST_JUDGED_S:
        return found
    rises = lines(samples)
    return found + [
        f"{TITLES[name]}: a rise of {rises[name][0]:.1f} an hour, expected at most {most:g}"
        for name, most in MOST_RISE.items()
        if not rises[name][0] <= most
    ]


def plot(samples: Sequence[Sample]) -> NDArray[np.uint8]:
    """A panel for each figure over time, from 0 up, with its line after the warm-up in red.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    rows, found = table(samples), lines(samples)
    panels = [
        _panel(name, rows[:, 0], column, *found[name], last=name == NAMES[-1])
        for name, column in zip(NAMES[1:], rows.T[1:], strict=True)
    ]
    return np.vstack(panels)


def _panel(
    name: str, seconds: NDArray[np.float64], values: NDArray[np.float64], rise: float, at_0: float, last: bool
) -> NDArray[np.uint8]:
    panel = np.full((_HEIGHT + (_BOTTOM if last else 0), _WIDTH, 3), 255, np.uint8)
    there = np.isfinite(values)
    step = _step(float(values[there].max()) if there.any() else 1.0)
    high = step * max(1, np.ceil(values[there].max() / step) if there.any() else 1)
    end = max(float(seconds[-1]), 1e-9)
    floor, right = _HEIGHT - 10, _WIDTH - _RIGHT

    def place(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.int32]:
        across = _LEFT + x / end * (right - _LEFT)
        return np.stack((across, floor - y / high * (floor - _TOP)), axis=1).astype(np.int32)

    warm = place(np.array([end * WARM_UP]), np.zeros(1))[0]
    cv2.rectangle(panel, (_LEFT, _TOP), (int(warm[0]), floor), _SHADE, cv2.FILLED)
    for tick in np.arange(0, high + step / 2, step):
        y = int(place(np.zeros(1), np.array([tick]))[0, 1])
        cv2.line(panel, (_LEFT, y), (right, y), _GREY)
        _write(panel, f"{tick:g}", y - 10, _LEFT - 6, from_right=True)
    title = f"{TITLES[name]}: median {np.median(values[there]):.1f}" if there.any() else TITLES[name]
    if np.isfinite(rise):
        ends = np.array([end * WARM_UP, end])
        cv2.polylines(panel, [place(ends, at_0 + rise * ends / 3600)], False, _RED, 2, cv2.LINE_AA)
        title += f", {signed(rise)} an hour after the warm-up"
    cv2.polylines(panel, [place(seconds[there], values[there])], False, _BLUE, 1, cv2.LINE_AA)
    _write(panel, title, 4, _LEFT)
    if last:
        _write(panel, "grey: the warm-up; red: the line through what follows", floor + 10, _LEFT)
        _write(panel, f"{end / 60:.1f} minutes", floor + 10, right, from_right=True)
    return panel


def _step(highest: float) -> float:
    """A round distance between two to five marks from 0 to a value."""
    power = 10 ** np.floor(np.log10(max(highest, 1) / 2))
    return float(next(power * one for one in (1, 2, 5, 10) if highest <= power * one * 4))


def _write(panel: NDArray[np.uint8], text: str, top: int, left: int, from_right: bool = False) -> None:
    letters = line_of_text(text)[:, :, None]
    left -= letters.shape[1] if from_right else 0
    place = panel[max(top, 0) : top + letters.shape[0], left : left + letters.shape[1]]
    place[:] = np.minimum(place, 255 - letters[: place.shape[0], : place.shape[1]])
