"""One node over real DDS with a segmenter that knows colours, and a robot that sends and listens."""

import threading
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from domain import own_context
from fakes import color_image, color_segmenter
from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray, Detection3DArray, LabelInfo
from visualization_msgs.msg import MarkerArray

from ovs_ros.msg import FrameCategories
from ovs_ros.options import LoadOptions
from ovs_ros.ros.camera import Camera
from ovs_ros.ros.node import OvsNode
from ovs_ros.segmenter import Segmenter

DEADLINE_S = 60.0
"""Only what fails waits that long; a busy machine takes 20 s to start three processes."""
FRAME = "camera_optical_frame"
LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
RELIABLE = QoSProfile(depth=50)
SENDING = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
OUTPUTS = {
    "semantic/image_raw": (Image, RELIABLE),
    "semantic/confidence": (Image, RELIABLE),
    "semantic/categories": (FrameCategories, RELIABLE),
    "semantic/label_info": (LabelInfo, LATCHED),
    "semantic/color": (Image, RELIABLE),
    "semantic/overlay": (Image, RELIABLE),
    "semantic/points": (PointCloud2, RELIABLE),
    "semantic/instances": (Image, RELIABLE),
    "semantic/channels": (Image, RELIABLE),
    "semantic/legend": (MarkerArray, RELIABLE),
    "semantic/detections": (Detection2DArray, RELIABLE),
    "semantic/detections_3d": (Detection3DArray, RELIABLE),
    "semantic/cloud": (PointCloud2, RELIABLE),
    "/diagnostics": (DiagnosticArray, RELIABLE),
}
VIEW = {"mask": (Image, RELIABLE), "label_info": (LabelInfo, LATCHED), "camera_info": (CameraInfo, RELIABLE)}
# Of messages that are there at once the executor takes those of the first subscription first.
ALWAYS = ("semantic/label_info", "semantic/image_raw", "semantic/confidence", "semantic/categories")
PICTURE = [["red", "green", "blue"]]  # 96x32 pixels


class Robot:
    """Sends a camera's messages to the node and keeps what the node publishes.

    Attributes:
        camera: the node's first one.
        got: topic -> messages, in the order of their arrival.
        order: (topic, message) of all topics, in the order of their arrival.
        warnings: what the node has warned of, but for old stamps.
    """

    def __init__(self, node: OvsNode, context: Context) -> None:
        self.node = node
        self.camera = node.cameras[0]
        self.warnings: list[str] = []
        log = node.warn

        def warn(text: str) -> None:
            if "the images' stamps are" not in text:  # Stamps here are of 1970.
                self.warnings.append(text)
            log(text)

        node.warn = warn
        self.helper = Node("robot", context=context)
        self.got: dict[str, list[Any]] = defaultdict(list)
        self.order: list[tuple[str, Any]] = []
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self.helper)
        prefixes = [f"{camera.name}/" if camera.name else "" for camera in node.cameras]
        self._senders = {
            prefix + topic: self.helper.create_publisher(kind, prefix + topic, SENDING)
            for prefix in prefixes
            for topic, kind in (
                ("image", Image),
                ("image/compressed", CompressedImage),
                ("depth", Image),
                ("depth/compressedDepth", CompressedImage),
                ("camera_info", CameraInfo),
                ("pose", PoseStamped),
                ("cloud", PointCloud2),
            )
        }
        self._listeners: dict[str, Any] = {}
        self.listen(*(prefix + topic for prefix in prefixes for topic in ALWAYS))

    def listen(self, *topics: str) -> None:
        """Subscribe, and wait until the publisher knows."""
        for topic in topics:
            kind, qos = (
                VIEW[topic.rpartition("/")[2]]
                if "/views/" in topic
                else OUTPUTS[topic[topic.find("semantic") :] if "semantic" in topic else topic]
            )
            self._listeners[topic] = self.helper.create_subscription(
                kind, topic, lambda message, topic=topic: self._take(topic, message), qos
            )

    def ignore(self, *topics: str) -> None:
        """End the subscriptions."""
        for topic in topics:
            self.helper.destroy_subscription(self._listeners.pop(topic))

    def _take(self, topic: str, message: Any) -> None:
        self.got[topic].append(message)
        self.order.append((topic, message))

    def until(self, condition: Callable[[], Any], what: str = "the condition") -> Any:
        """Spin until the condition holds, and return what it gave."""
        end = monotonic() + DEADLINE_S
        while not (result := condition()):
            assert monotonic() < end, f"waited {DEADLINE_S:.0f} s in vain for {what}"
            self._executor.spin_once(timeout_sec=0.02)
        return result

    def connected(self) -> None:
        """Wait until both sides know all of each other's topics, and the node has matched them."""
        listened = {f"/{topic.lstrip('/')}" for topic in self._listeners}
        self.until(
            lambda: (
                all(self._is_connected(camera) for camera in self.node.cameras)
                and all(self.helper.count_publishers(topic) for topic in self._listeners)
                and all(self.node.count_subscribers(topic) for topic in self._listeners)
                and all(_is_matched(listener) for listener in self._listeners.values())
                and all(
                    publisher.get_subscription_count()
                    for publisher in self.node.publishers
                    if publisher.topic_name in listened
                )
            ),
            "discovery",
        )

    def redirect(self, topic: str, name: str) -> None:
        """Send an input's messages to a topic of another name from now on."""
        self._senders[topic] = self.helper.create_publisher(self._senders[topic].msg_type, name, SENDING)

    def reaches(self, topic: str) -> bool:
        """Whether the node subscribes to an input, and gets what is sent from now on."""
        return self._senders[topic].get_subscription_count() > 0

    def _is_connected(self, camera: Camera) -> bool:
        """Whether all that is sent and that the camera now needs arrives."""
        prefix = f"/{camera.name}/" if camera.name else "/"
        filters = (
            self.node.get_parameter("temporal_filter").value == "pose"
            or self.node.get_parameter("propagate").value == "depth"
        )
        points = self.node.get_parameter("points").value
        needed = {prefix + topic for topic in ("image", "image/compressed", "camera_info")}
        if (
            filters
            or points == "always"
            or (points == "auto" and f"{prefix}semantic/points"[1:] in self._listeners)
        ):
            needed |= {f"{prefix}depth", f"{prefix}depth/compressedDepth"}
        if filters and self.node.get_parameter("pose_source").value == "topic":
            needed.add(f"{prefix}pose")
        needed = {topic for topic in needed & camera.topics if topic[1:] in self._senders}
        return bool(camera.topics) and (
            all(self._senders[topic[1:]].get_subscription_count() > 0 for topic in needed)
            and all(_is_matched(one) for one in [*self.node.subscriptions] if one.topic_name in needed)
        )

    def send(self, topic: str, message: Any) -> None:
        """Publish on one of the node's inputs."""
        self._senders[topic].publish(message)

    def image(self, ms: int, picture: Sequence[Sequence[str]] = PICTURE, camera: str = "") -> None:
        """Send a picture with a stamp of so many milliseconds."""
        self.send(f"{camera}/image" if camera else "image", rgb_message(ms, color_image(picture)))

    def labels(self, ms: int) -> Image:
        """Wait for the label image of a stamp."""
        return self.of_stamp("semantic/image_raw", ms)

    def of_stamp(self, topic: str, ms: int) -> Any:
        """Wait for a topic's message of a stamp."""
        return self.until(
            lambda: next((m for m in self.got[topic] if stamp_ms(m) == ms), None), f"{topic} of stamp {ms} ms"
        )

    def segment(self, ms: int, picture: Sequence[Sequence[str]] = PICTURE) -> Image:
        """Send a picture and wait for its label image."""
        self.image(ms, picture)
        return self.labels(ms)

    def call(self, kind: type, name: str, request: Any) -> Any:
        """Call a service and wait for its reply."""
        future = self.ask(kind, name, request)
        return self.until(lambda: future.result() if future.done() else None, f"the reply of {name}")

    def ask(self, kind: type, name: str, request: Any) -> Any:
        """Call a service: the future of its reply."""
        client = self.helper.create_client(kind, name)
        self.until(client.service_is_ready, f"the service {name}")
        return client.call_async(request)

    def close(self) -> None:
        self._executor.shutdown()
        self.helper.destroy_node()


def _is_matched(subscription: Subscription) -> bool:
    """Whether it has a publisher. What is sent before is lost, though the publisher may know it already."""
    try:
        # Older rclpy cannot tell.
        return getattr(subscription, "get_publisher_count", lambda: 1)() > 0
    except rclpy_implementation.InvalidHandle:  # The node has ended it meanwhile.
        return False


def stamp_ms(message: Any) -> int:
    """A message's stamp in milliseconds."""
    return message.header.stamp.sec * 1000 + message.header.stamp.nanosec // 1_000_000


def header(ms: int, frame: str = FRAME) -> Header:
    return Header(stamp=Time(sec=ms // 1000, nanosec=ms % 1000 * 1_000_000), frame_id=frame)


def rgb_message(ms: int, pixels: np.ndarray) -> Image:
    height, width = pixels.shape[:2]
    return Image(
        header=header(ms),
        height=height,
        width=width,
        encoding="rgb8",
        step=width * 3,
        data=array("B", pixels.tobytes()),
    )


def depth_message(ms: int, metres: np.ndarray, encoding: str = "32FC1") -> Image:
    height, width = metres.shape
    raw = metres.astype("<f4") if encoding == "32FC1" else (metres * 1000).astype("<u2")
    return Image(
        header=header(ms),
        height=height,
        width=width,
        encoding=encoding,
        step=width * raw.itemsize,
        data=array("B", raw.tobytes()),
    )


def info_message(ms: int, width: int = 96, height: int = 32, focal: float = 100.0) -> CameraInfo:
    k = [focal, 0.0, width / 2, 0.0, focal, height / 2, 0.0, 0.0, 1.0]
    return CameraInfo(header=header(ms), width=width, height=height, k=k)


def pose_message(ms: int, x: float = 0.0, world: str = "map") -> PoseStamped:
    pose = Pose(position=Point(x=x), orientation=Quaternion(w=1.0))
    return PoseStamped(header=header(ms, world), pose=pose)


def pixels(message: Image) -> np.ndarray:
    """A label, confidence or colour image as an array."""
    dtype = "<u2" if message.encoding == "16UC1" else "u1"
    array_ = np.frombuffer(message.data, dtype)
    shape = (message.height, message.width)
    return array_.reshape(shape if array_.size == shape[0] * shape[1] else (*shape, 3))


@contextmanager
def running(
    vocabulary: str,
    make_segmenter: Callable[[LoadOptions], Segmenter] | None = None,
    on_backbone: Callable[[], object] | None = None,
    remap: Mapping[str, str] | None = None,
    **parameters: Any,
) -> Iterator[Robot]:
    """A node with its executor in a thread, and a robot. It starts by itself unless `autostart=False`.

    `remap` gives the node's topics other names; the robot keeps its own.
    """
    remappings = [part for old, new in (remap or {}).items() for part in ("-r", f"{old}:={new}")]
    given = {"vocabulary": vocabulary, **parameters}
    with own_context() as context:
        node = OvsNode(
            make_segmenter or (lambda load: color_segmenter(on_backbone)),
            parameters=[Parameter(name, value=value) for name, value in given.items()],
            context=context,
            cli_args=["--ros-args", *remappings] if remappings else None,
        )
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)

        def spin() -> None:
            with suppress(ExternalShutdownException):
                executor.spin()

        thread = threading.Thread(target=spin, daemon=True)
        thread.start()
        robot = Robot(node, context)
        try:
            if parameters.get("autostart", True):
                robot.connected()
            yield robot
        finally:
            executor.shutdown()
            thread.join()
            robot.close()
            node.destroy_node()
