"""A long run of the real node, with its memory, open files, threads and latency over time: `ovs soak`."""

import argparse
import csv
import os
import sys
from collections.abc import Sequence
from dataclasses import astuple
from io import StringIO
from itertools import cycle
from pathlib import Path
from time import monotonic

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rich.console import Console
from rich.table import Table
from sensor_msgs.msg import Image, PointCloud2

from ovs_ros.ros import shared_memory
from ovs_ros.ros.bench_cameras import START_S, private_mb
from ovs_ros.ros.demo.run import NODE, Process, isolated_environment, start
from ovs_ros.ros.frames import nanoseconds
from ovs_ros.ros.soak_report import (
    LEAST_JUDGED_S,
    NAMES,
    TITLES,
    Sample,
    lines,
    plot,
    problems,
    signed,
    table,
)
from ovs_ros.runtime.files import write_atomically
from ovs_ros.runtime.images import write_image
from ovs_ros.srv import SetVocabulary

WORD_LISTS = (
    "motorcycle, floor, wall, shelf, door, cardboard box",
    "motorbike, concrete floor, wooden wall, cupboard, box",
    "wheel, floor, tool, bench, lamp",
)
SAMPLE_S = 1.0
ANSWER_S = 30.0
"""How long a change of the words may take until it is answered."""


class Listener(Node):
    """Subscribes to the node as rviz would, and changes its words again and again.

    Args:
        every: seconds between two changes of the words; the next one waits for the answer.

    Attributes:
        latencies_ms: of the label images since they were last taken.
        changes, refused: how many changes were answered, and how many of them were refused.
        errors: what /diagnostics told with the level ERROR.
    """

    def __init__(self, every: float) -> None:
        super().__init__("soak")
        self.latencies_ms: list[float] = []
        self.changes = self.refused = 0
        self._asked: float | None = None
        self.errors: set[str] = set()
        self._lists = cycle(WORD_LISTS)
        self.create_subscription(Image, "semantic/image_raw", self._on_labels, qos_profile_sensor_data)
        for kind, topic in ((Image, "semantic/overlay"), (PointCloud2, "semantic/points")):
            self.create_subscription(kind, topic, lambda message: None, qos_profile_sensor_data)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._client = self.create_client(SetVocabulary, f"{NODE}/set_vocabulary")
        self.create_timer(every, self._change)

    def _on_labels(self, message: Image) -> None:
        self.latencies_ms.append((self.get_clock().now().nanoseconds - nanoseconds(message.header)) / 1e6)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.errors |= {one.message for one in message.status if one.level == DiagnosticStatus.ERROR}

    def _change(self) -> None:
        if self._asked is not None or not self._client.service_is_ready():
            return
        self._asked = monotonic()
        names = [name.strip() for name in next(self._lists).split(",")]
        request = SetVocabulary.Request(mode=SetVocabulary.Request.REPLACE, names=names)
        self._client.call_async(request).add_done_callback(self._on_reply)

    def _on_reply(self, future: rclpy.task.Future) -> None:
        self._asked = None
        self.changes += 1
        self.refused += not future.result().success

    @property
    def waits_s(self) -> float:
        """For how many seconds a change has been waiting for its answer; 0: none does."""
        return 0.0 if self._asked is None else monotonic() - self._asked

    def take(self) -> list[float]:
        """The latencies since the last call."""
        taken, self.latencies_ms = self.latencies_ms, []
        return taken


def sample(process: Process, seconds: float, latencies_ms: Sequence[float]) -> Sample:
    """What /proc says of a process, and the latencies.

    Raises:
        FileNotFoundError, ProcessLookupError: the process has ended.
    """
    folder = Path("/proc", str(process.popen.pid))
    return Sample(
        seconds,
        private_mb(process.popen.pid),
        len(os.listdir(folder / "fd")),
        len(os.listdir(folder / "task")),
        float(np.median(latencies_ms)) if latencies_ms else float("nan"),
        len(latencies_ms),
    )


def soak(output: Path, minutes: float, rate: float, every: float, console: Console) -> int:
    """Run camera and node, and listen.

    Args:
        output: a folder that is there.
        minutes: how long, from the first label image on.
        rate: the camera's frames a second.
        every: seconds between two changes of the words.
        console: is told what was measured.

    Returns:
        0, or 1 if something is wrong, which is told too.
    """
    environment = isolated_environment()
    os.environ.update(environment)
    shared_memory.use_profile()
    words = output / "words.yaml"
    write_atomically(words, f"categories: [{WORD_LISTS[0]}]\n".encode())
    node = start(
        "node",
        [
            *("--ros-args", "-r", f"__node:={NODE}", "-p", f"vocabulary:={words}"),
            *("-p", "exit_on_failure:=true"),
        ],
        environment,
        output / "node.log",
    )
    camera = start("demo.camera", ["--rate", str(rate)], environment, output / "camera.log")
    rclpy.init(args=[])
    listener = Listener(every)
    samples: list[Sample] = []
    started: float | None = None
    interrupted = False
    due, end = monotonic(), monotonic() + START_S
    try:
        while monotonic() < end and node.popen.poll() is None:
            rclpy.spin_once(listener, timeout_sec=0.1)
            now = monotonic()
            if started is None and listener.latencies_ms:
                # The model has loaded.
                started, due, end = now, now + SAMPLE_S, now + minutes * 60
                listener.take()
                console.print(f"The node runs, for {minutes:g} minutes. Ctrl-C ends it earlier.")
            elif started is not None and now >= due:
                samples.append(sample(node, now - started, listener.take()))
                due += SAMPLE_S
    except (FileNotFoundError, ProcessLookupError):  # The node has ended meanwhile.
        node.popen.wait()
    except (KeyboardInterrupt, ExternalShutdownException):
        interrupted = True  # What was measured until then is told.
    finally:
        # A terminal's Ctrl-C ends the node too.
        ended = None if interrupted else node.popen.poll()
        waits = listener.waits_s
        for process in (camera, node):
            process.stop()
        listener.destroy_node()
        rclpy.try_shutdown()
    wrong = [] if ended is None else [f"the node ended with exit status {ended}"]
    wrong += [f"/diagnostics told an error: {error}" for error in sorted(listener.errors)]
    if listener.refused:
        wrong.append(f"{listener.refused} of {listener.changes} changes of the words were refused")
    if waits > ANSWER_S:
        wrong.append(f"a change of the words had no answer for {waits:.0f} s")
    if len(samples) < 2:
        wrong.append("the node gave no label images for two seconds")
    else:
        wrong += problems(samples)
        report(samples, output, console)
        console.print(f"{listener.changes} changes of the words. Files: {output}", soft_wrap=True)
    for problem in wrong:
        console.print(f"Error: {problem}", style="red", soft_wrap=True, markup=False)
    if wrong:
        console.print(node.last_words(), soft_wrap=True, markup=False)
    return int(bool(wrong))


def report(samples: Sequence[Sample], output: Path, console: Console) -> None:
    """Write and print what was measured."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(NAMES)
    writer.writerows(astuple(one) for one in samples)
    write_atomically(output / "soak.csv", text.getvalue().encode())
    write_image(output / "soak.png", plot(samples))
    found, rows = lines(samples), table(samples)  # rows: (n, fields)
    minutes = samples[-1].seconds / 60
    shown = Table("", "median", "95th percentile", "rise an hour", title=f"{minutes:.1f} minutes")
    for name, column in zip(NAMES[1:], rows.T[1:], strict=True):
        values = column[np.isfinite(column)]
        figures = [f"{value:.1f}" for value in np.percentile(values, (50, 95))] if len(values) else ["", ""]
        shown.add_row(TITLES[name], *figures, signed(found[name][0]))
    console.print(shown)
    if samples[-1].seconds < LEAST_JUDGED_S:
        console.print(f"Rises are judged from {LEAST_JUDGED_S / 60:.0f} minutes on: buffers fill at first.")


def main() -> None:
    """Run as `ovs soak` asks for it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("output", type=Path)
    for name in ("minutes", "rate", "change_every"):
        parser.add_argument(name, type=float)
    given = parser.parse_args()
    try:
        sys.exit(soak(given.output, given.minutes, given.rate, given.change_every, Console()))
    except OSError as error:
        parser.exit(2, f"Error: {error}\n")


if __name__ == "__main__":
    main()
