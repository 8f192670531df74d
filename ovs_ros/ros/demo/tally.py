"""Counts of the frames of a stream, and times, as a table."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from rich.table import Table

LATENCY = "camera to label image"


@dataclass
class Tally:
    """Counts of one stream. Stamps are in nanoseconds and identify frames.

    Attributes:
        images: stamps of the camera's frames.
        labels: stamps of the label images.
        versions: vocabulary version -> frames that carried it.
        keys: stamps of the frames that were segmented and whose labels came.
        propagated: how many frames had the labels of another one.
        stages_ms: stage -> milliseconds, one number a frame.
    """

    images: set[int] = field(default_factory=set)
    labels: set[int] = field(default_factory=set)
    versions: Counter[int] = field(default_factory=Counter)
    stages_ms: dict[str, list[float]] = field(default_factory=dict)
    keys: set[int] = field(default_factory=set)
    propagated: int = 0

    def image(self, stamp: int) -> None:
        """An image came from the camera."""
        self.images.add(stamp)

    def label_image(self, stamp: int, now: int) -> None:
        """A label image came at the time `now`."""
        self.labels.add(stamp)
        self.stages_ms.setdefault(LATENCY, []).append((now - stamp) / 1e6)

    def categories(self, version: int, stages_ms: Mapping[str, float], key: int, propagated: bool) -> None:
        """The categories of a frame came; `key` is the stamp of the frame that was segmented for it."""
        self.versions[version] += 1
        self.keys.add(key)
        self.propagated += propagated
        for stage, ms in stages_ms.items():
            self.stages_ms.setdefault(stage, []).append(ms)

    def summary(self) -> dict[str, float]:
        """Frames in, out and dropped from the first label image to the last, and the rates in Hz."""
        if not self.labels:
            rates = dict.fromkeys(("rate", "key rate", "propagated rate"), 0.0)
            return {"in": len(self.images), "out": 0, "dropped": len(self.images), **rates}
        first, last = min(self.labels), max(self.labels)
        # The viewer may have missed an image that the node got.
        into = {stamp for stamp in self.images if first <= stamp <= last} | self.labels
        seconds = (last - first) / 1e9
        return {
            "in": len(into),
            "out": len(self.labels),
            "dropped": len(into - self.labels),
            "rate": (len(self.labels) - 1) / seconds if seconds else 0.0,
            "key rate": max(len(self.keys) - 1, 0) / seconds if seconds else 0.0,
            "propagated rate": self.propagated / seconds if seconds else 0.0,
        }

    def table(self) -> Table:
        """The counts as a table for the terminal."""
        counts = self.summary()
        table = Table(title="The stream", caption="from the first label image to the last")
        table.add_column("")
        table.add_column("p50", justify="right")
        table.add_column("p95", justify="right")
        table.add_row("frames in", str(counts["in"]), "")
        table.add_row("frames out", str(counts["out"]), "")
        table.add_row("frames dropped (newest wins)", str(counts["dropped"]), "")
        table.add_row("rate", f"{counts['rate']:.1f} Hz", "")
        table.add_row("  key frames", f"{counts['key rate']:.1f} Hz", "")
        table.add_row("  propagated frames", f"{counts['propagated rate']:.1f} Hz", "", end_section=True)
        for stage, values in self.stages_ms.items():
            p50, p95 = np.percentile(values, (50, 95))
            table.add_row(stage, f"{p50:.1f} ms", f"{p95:.1f} ms", end_section=stage == LATENCY)
        table.add_section()
        for version, frames in sorted(self.versions.items()):
            table.add_row(f"vocabulary version {version}", f"{frames} frames", "")
        return table
