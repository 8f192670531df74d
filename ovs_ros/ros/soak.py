"""A long run of the real node, with its memory, handles, threads and latency over time.

python -m ovs_ros.ros.soak --minutes 30 --output soak_output

Writes soak.csv and soak.png, and prints how much each figure rises in an hour. Exits with 1 if the node ended
or if one rises that should not.
"""

import argparse
import csv
import os
import sys
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from itertools import cycle
from pathlib import Path
from time import monotonic

import cv2
import numpy as np
import rclpy
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rich.console import Console
from rich.table import Table
from sensor_msgs.msg import Image, PointCloud2

from ovs_ros.ros.demo.run import NODE, Process, isolated_environment, start
from ovs_ros.ros.frames import nanoseconds
from ovs_ros.srv import SetVocabulary

WORD_LISTS = (
    "motorcycle, floor, wall, shelf, door, cardboard box",
    "motorbike, concrete floor, wooden wall, cupboard, box",
    "wheel, floor, tool, bench, lamp",
)
SAMPLE_S = 1.0
WARM_UP = 0.2
"""Share of the samples, at the start, that slopes leave out: caches and buffers fill."""
MOST_RISE = {"memory_mb": 20.0, "handles": 2.0, "threads": 2.0}
"""By how much these may rise in an hour."""
_PANEL = (150, 900)
_MARGIN = 12


@dataclass(frozen=True)
class Sample:
    """The node at one time.

    Attributes:
        seconds: since the first sample.
        memory_mb: private to the process, in MB of 10^6 bytes.
        handles: open file descriptors.
        threads: of the process.
        latency_ms: the median from an image's stamp to its label image, of the last second; NaN without one.
        frames: label images of the last second.
    """

    seconds: float
    memory_mb: float
    handles: int
    threads: int
    latency_ms: float
    frames: int


class Listener(Node):
    """Subscribes to the node as rviz would, and changes its words again and again.

    Args:
        every: seconds between two changes of the words.

    Attributes:
        latencies_ms: of the label images since they were last taken.
        changes, refused: how many changes were asked for, and how many of them were refused.
    """

    def __init__(self, every: float) -> None:
        super().__init__("soak")
        self.latencies_ms: list[float] = []
        self.changes = self.refused = 0
        self._lists = cycle(WORD_LISTS)
        self.create_subscription(Image, "semantic/image_raw", self._on_labels, qos_profile_sensor_data)
        for kind, topic in ((Image, "semantic/overlay"), (PointCloud2, "semantic/points")):
            self.create_subscription(kind, topic, lambda message: None, qos_profile_sensor_data)
        self._client = self.create_client(SetVocabulary, f"{NODE}/set_vocabulary")
        self.create_timer(every, self._change)

    def _on_labels(self, message: Image) -> None:
        self.latencies_ms.append((self.get_clock().now().nanoseconds - nanoseconds(message.header)) / 1e6)

    def _change(self) -> None:
        if not self._client.service_is_ready():
            return
        self.changes += 1
        names = [name.strip() for name in next(self._lists).split(",")]
        request = SetVocabulary.Request(mode=SetVocabulary.Request.REPLACE, names=names)
        self._client.call_async(request).add_done_callback(self._on_reply)

    def _on_reply(self, future: rclpy.task.Future) -> None:
        self.refused += not future.result().success

    def take(self) -> list[float]:
        """The latencies since the last call."""
        taken, self.latencies_ms = self.latencies_ms, []
        return taken


def sample(process: Process, seconds: float, latencies_ms: Sequence[float]) -> Sample:
    """What /proc says of a process, and the latencies.

    Raises:
        FileNotFoundError: the process has ended.
    """
    folder = Path("/proc", str(process.popen.pid))
    lines = (folder / "smaps_rollup").read_text().splitlines()
    private = sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
    return Sample(
        seconds,
        private * 1024 / 1e6,
        len(os.listdir(folder / "fd")),
        len(os.listdir(folder / "task")),
        float(np.median(latencies_ms)) if latencies_ms else float("nan"),
        len(latencies_ms),
    )


def slopes(samples: Sequence[Sample]) -> dict[str, float]:
    """By how much each figure rises in an hour: the least squares line after the warm-up."""
    table = np.array([astuple(one) for one in samples[int(len(samples) * WARM_UP) :]])  # (n, fields)
    hours = table[:, 0] / 3600
    names = [field.name for field in fields(Sample)]
    rises = {}
    for name, column in zip(names[1:], table.T[1:], strict=True):
        there = np.isfinite(column)
        rises[name] = (
            float(np.polyfit(hours[there], column[there], 1)[0]) if there.sum() > 1 else float("nan")
        )
    return rises


def excesses(rises: dict[str, float]) -> list[str]:
    """One line for each figure that rises more than it may."""
    return [
        f"{name} rises by {rises[name]:.1f} an hour, expected at most {most:g}"
        for name, most in MOST_RISE.items()
        if not rises[name] <= most
    ]


def plot(samples: Sequence[Sample]) -> NDArray[np.uint8]:
    """A panel for each figure over time, (H, W, 3) uint8 BGR."""
    height, width = _PANEL
    table = np.array([astuple(one) for one in samples])  # (n, fields)
    panels = []
    for name, column in zip([field.name for field in fields(Sample)][1:], table.T[1:], strict=True):
        panel = np.full((height, width, 3), 255, np.uint8)
        there = np.isfinite(column)
        seconds, values = table[there, 0], column[there]
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
        top, floor = 3 * _MARGIN, height - _MARGIN
        x = _MARGIN + seconds / max(table[-1, 0], 1e-9) * (width - 2 * _MARGIN)
        y = floor - (values - low) / max(high - low, 1e-9) * (floor - top)
        line = np.stack((x, y), axis=1).astype(np.int32)
        cv2.rectangle(panel, (0, 0), (width - 1, height - 1), (200, 200, 200))
        cv2.polylines(panel, [line], False, (160, 80, 0), 1, cv2.LINE_AA)
        text = f"{name}: {low:.1f} to {high:.1f} in {table[-1, 0] / 60:.1f} min"
        cv2.putText(
            panel, text, (_MARGIN, 2 * _MARGIN), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA
        )
        panels.append(panel)
    return np.vstack(panels)


def soak(output: Path, minutes: float, rate: float, every: float, console: Console) -> int:
    """Run camera and node, and listen.

    Returns:
        0, or 1 if the node ended, gave no frame, or a figure rises more than it may.
    """
    output.mkdir(parents=True, exist_ok=True)
    environment = isolated_environment()
    os.environ.update(environment)
    words = output / "words.yaml"
    words.write_text(f"categories: [{WORD_LISTS[0]}]\n", encoding="utf-8")
    node = start(
        "node",
        ["--ros-args", "-r", f"__node:={NODE}", "-p", f"vocabulary:={words}"],
        environment,
        output / "node.log",
    )
    camera = start("demo.camera", ["--rate", str(rate)], environment, output / "camera.log")
    rclpy.init()
    listener = Listener(every)
    samples: list[Sample] = []
    started: float | None = None
    due = monotonic()
    try:
        while (started is None or monotonic() - started < minutes * 60) and node.popen.poll() is None:
            rclpy.spin_once(listener, timeout_sec=0.1)
            now = monotonic()
            if started is None and listener.latencies_ms:
                started, due = now, now + SAMPLE_S  # The model has loaded.
                listener.take()
            elif started is not None and now >= due:
                samples.append(sample(node, now - started, listener.take()))
                due += SAMPLE_S
    except (KeyboardInterrupt, FileNotFoundError):
        pass
    finally:
        ended = node.popen.poll()
        for process in (camera, node):
            process.stop()
        listener.destroy_node()
        rclpy.try_shutdown()
    problems = [] if ended is None else [f"the node ended with exit status {ended}"]
    if len(samples) < 2:
        problems.append("the node gave no label images for two seconds")
    else:
        problems += report(samples, listener, output, console)
    for problem in problems:
        console.print(f"soak: {problem}", style="red", soft_wrap=True)
    if ended is not None:
        console.print(node.last_words(), soft_wrap=True)
    return int(bool(problems))


def report(samples: Sequence[Sample], listener: Listener, output: Path, console: Console) -> list[str]:
    """Write and print what was measured. Returns what is wrong."""
    names = [field.name for field in fields(Sample)]
    with (output / "soak.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(astuple(one) for one in samples)
    cv2.imwrite(str(output / "soak.png"), plot(samples))
    rises = slopes(samples)
    table = Table(
        "", "median", "95th percentile", "rise an hour", title=f"{samples[-1].seconds / 60:.1f} minutes"
    )
    for index, name in enumerate(names[1:], 1):
        values = np.array([astuple(one)[index] for one in samples])
        median, high = np.nanpercentile(values, (50, 95))
        table.add_row(name, f"{median:.1f}", f"{high:.1f}", f"{rises[name]:+.2f}")
    console.print(table)
    console.print(f"{listener.changes} changes of the words, {listener.refused} refused. Files: {output}")
    refused = [f"{listener.refused} changes of the words were refused"] if listener.refused else []
    return refused + excesses(rises)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0, help="how long, from the first label image on")
    parser.add_argument("--output", type=Path, default=Path("soak_output"), help="folder for what is saved")
    parser.add_argument("--rate", type=float, default=15.0, help="the camera's frames a second")
    parser.add_argument(
        "--change-every", type=float, default=10.0, help="seconds between changes of the words"
    )
    arguments = parser.parse_args()
    for name in ("minutes", "rate", "change_every"):
        if not getattr(arguments, name) > 0:
            parser.error(f"--{name.replace('_', '-')} must be above 0, not {getattr(arguments, name)}")
    sys.exit(soak(arguments.output, arguments.minutes, arguments.rate, arguments.change_every, Console()))


if __name__ == "__main__":
    main()
