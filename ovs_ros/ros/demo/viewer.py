"""A viewer for demonstrations and tests: keeps what the node publishes, and changes the words halfway.

python -m ovs_ros.ros.demo.viewer --output demo_output --words "motorcycle, wall" --frames 120
"""

import argparse
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
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
from sensor_msgs.msg import Image, PointCloud2, PointField
from std_msgs.msg import Header
from vision_msgs.msg import LabelInfo

from ovs_ros.msg import FrameCategories
from ovs_ros.ros import shared_memory
from ovs_ros.ros.demo.gallery import Gallery, Shot
from ovs_ros.ros.demo.tally import Tally
from ovs_ros.srv import SetVocabulary

RECENT = 30
"""How many frames may be on their way at once before the oldest is given up."""


class ViewerError(RuntimeError):
    """The stream did not do what it should; the message says what was missing."""


@dataclass
class _Frame:
    """The messages of one stamp, as they come in."""

    labels: Image | None = None
    overlay: Image | None = None
    categories: FrameCategories | None = None


class Viewer(Node):
    """Keeps the node's outputs of one camera; calls `set_vocabulary` after half of the frames.

    Attributes:
        tally: what came in, with times.
        shots: the frames to be shown, in order.
        clouds: the newest cloud of each vocabulary version.
        names: label -> name for every label ever announced.
        complete: how many frames have come with all that belongs to them.
        done: completes when all frames are there, or with a ViewerError.
    """

    def __init__(self, node: str, words: Sequence[str], frames: int, every: int) -> None:
        """Subscribe.

        Args:
            node: the node's name, for its service.
            words: what the vocabulary becomes after half of the frames; empty: no change.
            frames: how many label images to wait for.
            every: of how many frames one is kept to be shown.
        """
        super().__init__("viewer")
        self.tally = Tally()
        self.shots: list[Shot] = []
        self.clouds: dict[int, PointCloud2] = {}
        self.names: dict[int, str] = {}
        self.done = Future()
        self.words, self._frames, self._every = tuple(words), frames, every
        self._recent: dict[int, _Frame] = {}
        self._versions: deque[tuple[int, int]] = deque(maxlen=RECENT)
        self._asked = not words
        self.complete = 0
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        for kind, topic, callback, qos in (
            (Image, "image", self._on_image, qos_profile_sensor_data),
            (Image, "semantic/image_raw", self._on_labels, qos_profile_sensor_data),
            (Image, "semantic/overlay", self._on_overlay, qos_profile_sensor_data),
            (FrameCategories, "semantic/categories", self._on_categories, qos_profile_sensor_data),
            (PointCloud2, "semantic/points", self._on_points, qos_profile_sensor_data),
            (LabelInfo, "semantic/label_info", self._on_label_info, latched),
        ):
            self.create_subscription(kind, topic, callback, qos)
        self._client = self.create_client(SetVocabulary, f"{node}/set_vocabulary")

    def _on_image(self, message: Image) -> None:
        self.tally.image(_stamp(message.header))

    def _on_labels(self, message: Image) -> None:
        self.tally.label_image(_stamp(message.header), self.get_clock().now().nanoseconds)
        self._frame(message.header).labels = message
        self._finish(message.header)

    def _on_overlay(self, message: Image) -> None:
        self._frame(message.header).overlay = message
        self._finish(message.header)

    def _on_categories(self, message: FrameCategories) -> None:
        self.tally.categories(message.version, dict(zip(message.stages, message.stages_ms, strict=True)))
        self._versions.append((_stamp(message.header), message.version))
        self._frame(message.header).categories = message
        self._finish(message.header)

    def _on_points(self, message: PointCloud2) -> None:
        version = dict(self._versions).get(_stamp(message.header))
        if version is not None:
            self.clouds[version] = message

    def _on_label_info(self, message: LabelInfo) -> None:
        self.names.update({entry.class_id: entry.class_name for entry in message.class_map})

    def _frame(self, header: Header) -> _Frame:
        stamp = _stamp(header)
        if stamp not in self._recent:
            self._recent[stamp] = _Frame()
            if len(self._recent) > RECENT:
                del self._recent[min(self._recent)]
        return self._recent[stamp]

    def _finish(self, header: Header) -> None:
        frame = self._frame(header)
        if frame.labels is None or frame.overlay is None or frame.categories is None:
            return
        del self._recent[_stamp(header)]
        if self.complete % self._every == 0 or self.complete == self._frames - 1:
            self.shots.append(_shot(frame.labels, frame.overlay, frame.categories))
        self.complete += 1
        if not self._asked and self.complete >= self._frames // 2:
            self._asked = True
            self._change_words()
        if self.complete >= self._frames and not self.done.done():
            self.done.set_result(None)

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


def _stamp(header: Header) -> int:
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec


def pixels(message: Image) -> NDArray[Any]:
    """The pixels of a label image, (H, W), or colour image, (H, W, 3), of the node; no copy."""
    dtype, channels = {"mono8": ("u1", 1), "16UC1": ("<u2", 1), "rgb8": ("u1", 3)}[message.encoding]
    shape = (message.height, message.width) if channels == 1 else (message.height, message.width, channels)
    return np.frombuffer(message.data, dtype).reshape(shape)


def _shot(labels: Image, overlay: Image, categories: FrameCategories) -> Shot:
    return Shot(
        pixels(labels),
        pixels(overlay),
        tuple(categories.names),
        np.asarray(categories.shares, np.float32),
        categories.unknown_share,
        categories.version,
    )


def cloud_array(message: PointCloud2) -> NDArray[np.void]:
    """The points of an organised cloud as a structured array (H, W) with the message's fields, no copy."""
    kinds = {
        PointField.FLOAT32: "<f4",
        PointField.UINT32: "<u4",
        PointField.UINT16: "<u2",
        PointField.UINT8: "u1",
    }
    dtype = np.dtype(
        {
            "names": [field.name for field in message.fields],
            "formats": [kinds[field.datatype] for field in message.fields],
            "offsets": [field.offset for field in message.fields],
            "itemsize": message.point_step,
        }
    )
    return np.frombuffer(message.data, dtype).reshape(message.height, message.width)


def watch(viewer: Viewer, frames: int, patience: float, console: Console) -> None:
    """Spin until the viewer has all its frames.

    Raises:
        ViewerError: for `patience` seconds nothing new was complete, or the words could not be changed.
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
            elif monotonic() - since > patience:
                raise ViewerError(
                    f"{complete} of {frames} frames after {patience:.0f} s without a new one: got "
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
    parser.add_argument("--every", type=int, default=4, help="of how many frames one is shown")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds to wait for the next frame")
    arguments = parser.parse_args(remove_ros_args(sys.argv)[1:])
    for name in ("frames", "every"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1, not {getattr(arguments, name)}")
    words = [word.strip() for word in arguments.words.split(",") if word.strip()]
    console = Console()
    shared_memory.use_profile()
    rclpy.init()
    try:
        viewer = Viewer(arguments.node, words, arguments.frames, arguments.every)
        watch(viewer, arguments.frames, arguments.patience, console)
    except ViewerError as error:
        sys.exit(f"viewer: {error}")
    except (KeyboardInterrupt, ExternalShutdownException):
        sys.exit("viewer: interrupted")
    finally:
        rclpy.try_shutdown()
    gallery = Gallery(arguments.output, viewer.names)
    clouds = {version: cloud_array(cloud) for version, cloud in viewer.clouds.items()}
    for path in gallery.save(viewer.shots, clouds):
        console.print(f"  {path}")
    console.print(viewer.tally.table())


if __name__ == "__main__":
    main()
