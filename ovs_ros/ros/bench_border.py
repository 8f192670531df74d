"""What ROS costs a frame: a message becomes an array, and results become messages.

python -m ovs_ros.ros.bench_border

No model runs: labels, confidences and depth are made up. `ovs bench --border` is the same.
"""

import argparse
import json
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter, thread_time

import cv2
import numpy as np
import rclpy
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode
from rich.console import Console
from rich.table import Table
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import Header

from ovs_ros.geometry.points import Intrinsics, PointProjector
from ovs_ros.ros.conversions import depth_to_metres, image_to_rgb
from ovs_ros.ros.outputs import Outputs
from ovs_ros.ros.qos import STREAM
from ovs_ros.runtime.files import write_atomically
from ovs_ros.runtime.processor import device_name
from ovs_ros.runtime.threads import use_threads
from ovs_ros.steps.segmentation import Segmentation
from ovs_ros.vocabulary.vocabulary import Vocabulary

HEIGHT, WIDTH = 480, 640
WARM_UP = 20


def message_of(pixels: NDArray, encoding: str) -> Image:
    """A message with C-contiguous pixels (H, W) or (H, W, C)."""
    height, width = pixels.shape[:2]
    message = Image(height=height, width=width, encoding=encoding, step=pixels.strides[0])
    message.data = array("B", pixels.tobytes())
    return message


def made_up_result(names: int = 150) -> Segmentation:
    """Labels and confidences that have edges, as a frame's have."""
    random = np.random.default_rng(0)
    vocabulary = Vocabulary.from_names([f"word {number}" for number in range(names)])
    coarse = random.integers(0, names, (12, 16), np.uint8)
    labels = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST)
    confidence = random.integers(0, 256, (HEIGHT, WIDTH), np.uint8)
    ids = np.unique(labels).astype(np.uint16)
    selected = tuple(vocabulary.names[number] for number in ids)
    scores = np.ones(len(ids), np.float32)
    shares = np.full(len(ids), 1 / len(ids), np.float32)
    return Segmentation(labels, confidence, vocabulary, ids, selected, scores, shares, 0.0, {})


def measure(node: LifecycleNode, frames: int) -> dict[str, NDArray[np.float64]]:
    """Milliseconds of each part, and of all as 'all': (frames, 2), by the clock and in CPU time."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    color = message_of(pixels, "bgr8")
    depth = message_of(random.integers(0, 5000, (HEIGHT, WIDTH)).astype("<u2"), "16UC1")
    result, header = made_up_result(), Header(frame_id="camera")
    outputs = Outputs(node)
    node.trigger_configure()
    node.trigger_activate()
    listener = rclpy.create_node("bench_border_listener")
    for topic, kind in (("image_raw", Image), ("confidence", Image), ("points", PointCloud2)):
        listener.create_subscription(kind, f"semantic/{topic}", lambda _: None, STREAM)
    projector = PointProjector(Intrinsics(500.0, 500.0, WIDTH / 2, HEIGHT / 2, WIDTH, HEIGHT))
    times: dict[str, list[tuple[float, float]]] = {}

    def timed(name: str, part: Callable[[], NDArray | None]) -> NDArray:
        start, used = perf_counter(), thread_time()
        made = part()
        times.setdefault(name, []).append((perf_counter() - start, thread_time() - used))
        return np.empty(0) if made is None else made

    def points(image: NDArray, metres: NDArray) -> None:
        buffer = outputs.points.buffer(HEIGHT, WIDTH)
        projector.fill(buffer, metres, image, result.labels, result.confidence)
        outputs.points.publish(header, buffer)

    try:
        while not outputs.points.wanted():
            rclpy.spin_once(listener, timeout_sec=0.05)
        for _ in range(WARM_UP + frames):
            image = timed("image to array", lambda: image_to_rgb(color))
            timed("labels and confidence to messages", lambda: outputs.images(header, image, result))  # noqa: B023
            metres = timed("depth to array", lambda: depth_to_metres(depth))
            timed("points to message", lambda: points(image, metres))  # noqa: B023
            rclpy.spin_once(listener, timeout_sec=0.0)
    finally:
        listener.destroy_node()
        outputs.destroy()
    kept = {name: np.array(taken[WARM_UP:]) * 1e3 for name, taken in times.items()}
    return kept | {"all": np.sum(list(kept.values()), axis=0)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--frames", type=int, default=300, help="how many frames are timed")
    parser.add_argument("--threads", type=int, default=0, help="of the processor; 0: as many as usable cores")
    parser.add_argument("--json", type=Path, help="write the results to this file as JSON")
    given = parser.parse_args(arguments)
    use_threads(given.threads)
    rclpy.init(args=[])
    node = LifecycleNode("bench_border")
    try:
        times = measure(node, given.frames)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    figures = {
        name: {
            "median_ms": float(np.median(taken[:, 0])),
            "p95_ms": float(np.percentile(taken[:, 0], 95)),
            "cpu_ms": float(np.median(taken[:, 1])),
        }
        for name, taken in times.items()
    }
    table = Table("ms", "median", "95th percentile", "CPU time of the thread, median")
    for name, figure in figures.items():
        table.add_row(name, *(f"{value:.2f}" for value in figure.values()))
    console = Console()
    console.print(table)
    console.print(
        f"{WIDTH}x{HEIGHT} pixels, bgr8 and depth in mm, {given.frames} frames, {device_name('cpu')}"
    )
    if given.json:
        write_atomically(given.json, (json.dumps(figures, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
