"""What cameras cost in one node: memory for each more of them, and how evenly they are served.

python -m ovs_ros.ros.bench_cameras --cameras 4

Runs the node as a process of its own, over DDS, once with one camera and once with all of them. Together they
send as many images as the one, more than there is time for. `ovs bench --cameras 4` is the same.
"""

import argparse
import json
import os
import sys
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

import cv2
import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rich.console import Console
from rich.table import Table
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from ovs_ros.ros import shared_memory
from ovs_ros.ros.demo.run import NODE, isolated_environment, start
from ovs_ros.runtime.files import write_atomically
from ovs_ros.runtime.processor import device_name

HEIGHT, WIDTH = 480, 640
WARM_UP_S = 5.0
START_S = 120.0
"""How long the node may take until the first label image of the last camera."""


@dataclass(frozen=True)
class Run:
    """The node with some cameras.

    Attributes:
        private_mb: memory that belongs to the process alone, at the end, in MB of 10^6 bytes.
        frames: how many label images each camera got.
        seconds: in how long.
        cores: how many of the processor's cores the process took meanwhile, in the mean.
    """

    private_mb: float
    frames: list[int]
    seconds: float
    cores: float = 0.0

    @property
    def hz(self) -> float:
        """Label images a second, of all cameras together."""
        return sum(self.frames) / self.seconds

    @property
    def unevenness(self) -> float:
        """By which part of an equal share the camera that is farthest from it deviates."""
        share = sum(self.frames) / len(self.frames)
        return max(abs(count - share) for count in self.frames) / share


class Rig(Node):
    """Sends the images of all cameras, and counts the label images.

    Args:
        names: of the cameras.
        rate: images a second of all together.
    """

    def __init__(self, names: Sequence[str], rate: float) -> None:
        super().__init__("bench")
        self.frames: Counter[str] = Counter()
        coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
        scene = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        self._data = array("B", scene.tobytes())
        self._senders = [
            self.create_publisher(Image, f"{name}/image", qos_profile_sensor_data) for name in names
        ]
        for name in names:
            topic = f"{name}/semantic/image_raw"
            self.create_subscription(Image, topic, partial(self._count, name), qos_profile_sensor_data)
        self.create_timer(len(names) / rate, self._send)

    def _count(self, name: str, _: Image) -> None:
        self.frames[name] += 1

    def _send(self) -> None:
        header = Header(stamp=self.get_clock().now().to_msg(), frame_id="camera")
        message = Image(header=header, height=HEIGHT, width=WIDTH, encoding="rgb8", step=WIDTH * 3)
        message.data = self._data  # As an argument it would be copied.
        for sender in self._senders:
            sender.publish(message)


def private_mb(process_id: int) -> float:
    """The memory that belongs to a process alone, in MB of 10^6 bytes."""
    lines = Path("/proc", str(process_id), "smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * 1024 / 1e6


def cpu_seconds(process_id: int) -> float:
    """The processor's time that a process has taken, in user and in system mode."""
    # The name of the program, in brackets, may hold blanks.
    fields = Path("/proc", str(process_id), "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(cameras: int, seconds: float, rate: float, parameters: Sequence[str]) -> Run:
    """Run the node with so many cameras.

    Args:
        parameters: of the node, as NAME:=VALUE.

    Raises:
        RuntimeError: the node ended, or gave no label images.
    """
    names = [f"camera_{number}" for number in range(cameras)]
    given = [f"cameras:=[{', '.join(names)}]", *parameters]
    arguments = ["--ros-args", "-r", f"__node:={NODE}", *(part for one in given for part in ("-p", one))]
    environment = isolated_environment()
    os.environ.update(environment)
    shared_memory.use_profile()
    with TemporaryDirectory() as folder:
        node = start("node", arguments, environment, Path(folder) / "node.log")
        rclpy.init(args=[])
        rig = Rig(names, rate)

        def spin(until: float) -> None:
            while monotonic() < until and node.popen.poll() is None:
                rclpy.spin_once(rig, timeout_sec=0.1)

        try:
            end = monotonic() + START_S
            while len(rig.frames) < cameras and monotonic() < end and node.popen.poll() is None:
                spin(monotonic() + 0.5)
            if len(rig.frames) < cameras:
                raise RuntimeError(f"expected label images of all cameras, got none\n{node.last_words()}")
            spin(monotonic() + WARM_UP_S)
            rig.frames.clear()
            began, before = monotonic(), cpu_seconds(node.popen.pid)
            spin(began + seconds)
            took, counts = monotonic() - began, [rig.frames[name] for name in names]
            if node.popen.poll() is not None:
                raise RuntimeError(f"expected a node that goes on, got its end\n{node.last_words()}")
            cores = (cpu_seconds(node.popen.pid) - before) / took
            return Run(private_mb(node.popen.pid), counts, took, cores)
        finally:
            node.stop()
            rig.destroy_node()
            rclpy.try_shutdown()


def report(one: Run, all_: Run, console: Console) -> None:
    """Print what was measured."""
    table = Table("cameras", "private MB", "each more", "cores", "Hz together", "Hz of each", "off its share")
    cores = f"{one.cores:.2f}"
    table.add_row("1", f"{one.private_mb:.0f}", "", cores, f"{one.hz:.1f}", f"{one.hz:.1f}", "")
    each = ", ".join(f"{count / all_.seconds:.2f}" for count in all_.frames)
    table.add_row(
        str(len(all_.frames)),
        f"{all_.private_mb:.0f}",
        f"{_more_mb(one, all_):.0f}",
        f"{all_.cores:.2f}",
        f"{all_.hz:.1f}",
        each,
        f"{all_.unevenness:.1%}",
    )
    console.print(table)
    console.print(f"{WIDTH}x{HEIGHT} pixels, {all_.seconds:.0f} s each, on {device_name('cpu')}")


def _more_mb(one: Run, all_: Run) -> float:
    return (all_.private_mb - one.private_mb) / (len(all_.frames) - 1)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cameras", type=int, default=4, help="how many, at least 2")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long each run is measured")
    parser.add_argument("--rate", type=float, default=40.0, help="images a second of all cameras together")
    parser.add_argument("--json", type=Path, help="write the results to this file as JSON")
    parser.add_argument("parameters", nargs="*", metavar="NAME:=VALUE", help="parameters of the node")
    given = parser.parse_args()
    if given.cameras < 2:
        parser.error(f"--cameras must be at least 2, not {given.cameras}")
    try:
        one, all_ = (run(count, given.seconds, given.rate, given.parameters) for count in (1, given.cameras))
    except RuntimeError as error:
        sys.exit(f"bench_cameras: {error}")
    report(one, all_, Console())
    if given.json:
        results = {
            "one": asdict(one),
            "all": asdict(all_),
            "mb_for_each_more": _more_mb(one, all_),
            "unevenness": all_.unevenness,
            "processor": device_name("cpu"),
        }
        write_atomically(given.json, (json.dumps(results, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
