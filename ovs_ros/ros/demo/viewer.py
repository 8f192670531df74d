"""A viewer for the demonstration: keeps what the node publishes, and changes the words halfway.

python -m ovs_ros.ros.demo.viewer --output demo_output --words "motorcycle, wall" --frames 120
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import rclpy
from numpy.typing import NDArray
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from rclpy.task import Future
from rclpy.utilities import remove_ros_args
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import Header
from vision_msgs.msg import LabelInfo

from ovs_ros.geometry.points import POINT
from ovs_ros.msg import FrameCategories
from ovs_ros.ros import shared_memory
from ovs_ros.ros.demo.gallery import save, with_legend
from ovs_ros.ros.demo.tally import Tally
from ovs_ros.ros.frames import nanoseconds
from ovs_ros.srv import SetVocabulary

RECENT = 60
"""Of how many frames messages are kept."""
EVERY = 4
"""Of how many frames one picture is kept."""
PATIENCE_S = 60.0
"""How long to wait for the next frame."""
LABELS, OVERLAY, CATEGORIES, POINTS = (
    f"semantic/{name}" for name in ("image_raw", "overlay", "categories", "points")
)


class ViewerError(RuntimeError):
    """The stream did not do what it should; the message says what was missing."""


class Viewer(Node):
    """Keeps the node's outputs of one camera; calls `set_vocabulary` after half of the frames.

    Args:
        node: the node's name, for its service.
        words: what the vocabulary becomes after half of the frames; empty: no change.
        frames: how many label images to wait for.

    Attributes:
        tally: what came in, with times.
        pictures: overlays with legends, in order.
        labels, clouds: the newest message of each vocabulary version.
        names: label -> name for every label ever announced.
        complete: how many frames have come with all that belongs to them.
        done: completes when all frames are there, or with a ViewerError.
    """

    def __init__(self, node: str, words: Sequence[str], frames: int, **node_options: Any) -> None:
        super().__init__("viewer", **node_options)
        self.tally = Tally()
        self.pictures: list[NDArray[np.uint8]] = []
        self.labels: dict[int, Image] = {}
        self.clouds: dict[int, PointCloud2] = {}
        self.names: dict[int, str] = {}
        self._vocabularies: list[list[str]] = []
        self.complete = 0
        self.done = Future()
        self.words, self._frames = tuple(words), frames
        self._recent: dict[int, dict[str, Any]] = {}  # stamp -> topic -> message
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.create_subscription(LabelInfo, "semantic/label_info", self._on_label_info, latched)
        for topic, kind in (
            ("image", Image),
            (LABELS, Image),
            (OVERLAY, Image),
            (CATEGORIES, FrameCategories),
            (POINTS, PointCloud2),
        ):
            self.create_subscription(kind, topic, partial(self._take, topic), qos_profile_sensor_data)
        self._client = self.create_client(SetVocabulary, f"{node}/set_vocabulary")

    def _on_label_info(self, message: LabelInfo) -> None:
        self._vocabularies.append([entry.class_name for entry in message.class_map])
        self.names.update({entry.class_id: entry.class_name for entry in message.class_map})

    def _take(self, topic: str, message: Any) -> None:
        stamp = nanoseconds(message.header)
        if topic == "image":
            self.tally.image(stamp)
            return
        if topic == LABELS:
            self.tally.label_image(stamp, self.get_clock().now().nanoseconds)
        elif topic == CATEGORIES:
            stages = dict(zip(message.stages, message.stages_ms, strict=True))
            key = nanoseconds(Header(stamp=message.key_stamp))
            self.tally.categories(message.version, stages, key, message.propagated)
        frame = self._recent.setdefault(stamp, {})
        frame[topic] = message
        if len(self._recent) > RECENT:
            del self._recent[min(self._recent)]
        if {POINTS, CATEGORIES} <= frame.keys():
            self.clouds[frame[CATEGORIES].version] = frame[POINTS]
        if topic != POINTS and {LABELS, OVERLAY, CATEGORIES} <= frame.keys():
            self._finish(frame[LABELS], frame[OVERLAY], frame[CATEGORIES])

    def _finish(self, labels: Image, overlay: Image, categories: FrameCategories) -> None:
        self.labels[categories.version] = labels
        if self.complete % EVERY == 0 or self.complete == self._frames - 1:
            shares = dict(zip(categories.names, categories.shares, strict=True))
            names = self._vocabulary_of(categories.names)
            self.pictures.append(with_legend(pixels(overlay), names, shares, categories.unknown_share))
        self.complete += 1
        if self.words and self.complete == max(self._frames // 2, 1):
            self._change_words()
        if self.complete >= self._frames and not self.done.done():
            self.done.set_result(None)

    def _vocabulary_of(self, shown: Sequence[str]) -> Sequence[str]:
        """The newest announced vocabulary that has these names.

        A frame of the last vocabulary may come after the names of the next.
        """
        held = (names for names in reversed(self._vocabularies) if set(shown) <= set(names))
        return next(held, shown)

    def _change_words(self) -> None:
        if not self._client.service_is_ready():
            self.done.set_exception(ViewerError(f"the service {self._client.srv_name} is not there"))
            return
        request = SetVocabulary.Request(mode=SetVocabulary.Request.REPLACE, names=self.words)
        self._client.call_async(request).add_done_callback(self._on_changed)

    def _on_changed(self, future: Future) -> None:
        reply = future.result()
        if not reply.success:
            self.done.set_exception(ViewerError(f"set_vocabulary was refused: {reply.message}"))


def pixels(message: Image) -> NDArray[Any]:
    """The pixels of a label image, (H, W), or colour image, (H, W, 3), of the node; no copy."""
    values = np.frombuffer(message.data, "<u2" if message.encoding == "16UC1" else "u1")
    return values.reshape(message.height, message.width, *((3,) if message.encoding == "rgb8" else ()))


def points(message: PointCloud2) -> NDArray[np.void]:
    """The points (H, W) of a cloud of the node; no copy."""
    return np.frombuffer(message.data, POINT).reshape(message.height, message.width)


def watch(viewer: Viewer, frames: int, console: Console) -> None:
    """Spin until the viewer has all its frames.

    Raises:
        ViewerError: for PATIENCE_S seconds nothing new was complete, or the words could not be changed.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("waiting for the first frame", total=frames)
        complete, since = 0, monotonic()
        while not viewer.done.done():
            rclpy.spin_until_future_complete(viewer, viewer.done, timeout_sec=0.25)
            if viewer.complete != complete:
                complete, since = viewer.complete, monotonic()
                versions = ", ".join(map(str, sorted(viewer.tally.versions)))
                progress.update(task, completed=complete, description=f"vocabulary version {versions}")
            elif monotonic() - since > PATIENCE_S:
                raise ViewerError(
                    f"{complete} of {frames} frames after {PATIENCE_S:.0f} s without a new one: got "
                    f"{len(viewer.tally.images)} images and {len(viewer.tally.labels)} label images"
                )
    viewer.done.result()
    if viewer.words and len(viewer.tally.versions) < 2:
        raise ViewerError("set_vocabulary was called, but no frame carries another version of the vocabulary")


def main() -> None:
    """Run the viewer until it has what it waits for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("demo_output"), help="folder for what it saves")
    parser.add_argument("--node", default="ovs", help="the segmenting node's name")
    parser.add_argument(
        "--words", default="", help="words after half of the frames, with commas between them"
    )
    parser.add_argument("--frames", type=int, default=120, help="how many frames to wait for")
    arguments = parser.parse_args(remove_ros_args(sys.argv)[1:])
    if arguments.frames < 1:
        parser.error(f"--frames must be at least 1, not {arguments.frames}")
    words = [word.strip() for word in arguments.words.split(",") if word.strip()]
    console = Console()
    shared_memory.use_profile()
    rclpy.init()
    try:
        viewer = Viewer(arguments.node, words, arguments.frames)
        watch(viewer, arguments.frames, console)
    except ViewerError as error:
        sys.exit(f"viewer: {error}")
    except (KeyboardInterrupt, ExternalShutdownException):
        sys.exit("viewer: interrupted")
    finally:
        rclpy.try_shutdown()
    labels = {version: pixels(image) for version, image in viewer.labels.items()}
    clouds = {version: points(cloud) for version, cloud in viewer.clouds.items()}
    for path in save(arguments.output, viewer.names, viewer.pictures, labels, clouds):
        console.print(f"  {path}")
    console.print(viewer.tally.table())


if __name__ == "__main__":
    main()
