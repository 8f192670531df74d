"""What Nav2's semantic_segmentation_layer does with the node's messages, by its source (Humble to rolling).

It subscribes to mask, confidence and cloud best effort and joins them by their stamps; to the label info
reliably and transient local. A label info gives each name of the layer's parameters an id of 8 bits. A triple
is used if mask and cloud have as many pixels; the mask's bytes are ids, whatever its encoding says.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, PointCloud2
from vision_msgs.msg import LabelInfo

SENSOR = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(
    depth=5, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)


class Nav2Layer:
    """The layer with one observation source.

    Args:
        node: subscribes.
        source: the source's parameters: topics, and class types with their classes and costs.

    Attributes:
        triples: stamp in ns -> how many pixels with a finite point have each cost; None: an id without one,
            which the layer skips.
        refused: why messages were not used.
    """

    def __init__(self, node: Node, source: Mapping[str, Any]) -> None:
        self.triples: dict[int, Counter[int | None]] = {}
        self.refused: list[str] = []
        self._costs = {
            name: source[kind]["max_cost"]
            for kind in source["class_types"]
            for name in source[kind]["classes"]
        }
        self._cost_of_id: dict[int, int] = {}
        self._waiting: defaultdict[int, dict[str, Any]] = defaultdict(dict)
        for name, kind in (("segmentation", Image), ("confidence", Image), ("pointcloud", PointCloud2)):
            node.create_subscription(
                kind, source[f"{name}_topic"], lambda message, name=name: self._take(name, message), SENSOR
            )
        node.create_subscription(LabelInfo, source["labels_topic"], self._take_labels, LATCHED)

    def _take_labels(self, message: LabelInfo) -> None:
        self._cost_of_id = {}
        for entry in message.class_map:
            if entry.class_name in self._costs:
                self._cost_of_id[entry.class_id & 255] = self._costs[entry.class_name]
            else:
                self.refused.append(f"CRITICAL ERROR: Class '{entry.class_name}' is not defined")

    def _take(self, name: str, message: Any) -> None:
        stamp = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
        self._waiting[stamp][name] = message
        if len(self._waiting[stamp]) == 3:
            self._use(stamp, **self._waiting.pop(stamp))

    def _use(self, stamp: int, segmentation: Image, confidence: Image, pointcloud: PointCloud2) -> None:
        count = segmentation.width * segmentation.height
        if count != pointcloud.width * pointcloud.height:
            self.refused.append("Pointcloud and segmentation sizes are different")
        elif min(len(segmentation.data), len(confidence.data)) < count:
            self.refused.append("segmentation arrays have wrong sizes")
        elif not self._cost_of_id:
            self.refused.append("Class map is empty")
        else:
            depth = np.frombuffer(pointcloud.data, np.float32).reshape(count, -1)[:, 2]
            ids = np.frombuffer(segmentation.data, np.uint8)[:count][np.isfinite(depth)]
            self.triples[stamp] = Counter(self._cost_of_id.get(number) for number in ids.tolist())
