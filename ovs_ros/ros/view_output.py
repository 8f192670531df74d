"""The topics of a label view."""

from copy import copy

from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header
from vision_msgs.msg import LabelInfo, VisionClass

from ovs_ros.ros.image_publisher import ImagePublisher
from ovs_ros.ros.measurements import Measurements
from ovs_ros.ros.qos import LATCHED, STREAM
from ovs_ros.ros.session import SESSION
from ovs_ros.steps.labels import look_up
from ovs_ros.steps.segmentation import Segmentation
from ovs_ros.vocabulary.label_view import LabelView
from ovs_ros.vocabulary.vocabulary import Vocabulary


class ViewOutput:
    """Publishes one label view of one camera. For one thread, the worker's.

    Args:
        node: publishes.
        prefix: stands before the topics' names: empty, or a camera's name and '/'.
        view: the values of names.
    """

    def __init__(self, node: LifecycleNode, prefix: str, view: LabelView) -> None:
        self._node = node
        self._view = view
        topic = f"{prefix}semantic/views/{view.name}"
        self._mask = ImagePublisher(node, f"{topic}/mask")
        self._label_info = node.create_lifecycle_publisher(LabelInfo, f"{topic}/label_info", LATCHED)
        self._camera_info = node.create_lifecycle_publisher(CameraInfo, f"{topic}/camera_info", STREAM)
        self._vocabulary: Vocabulary | None = None

    def destroy(self) -> None:
        """Destroy the publishers."""
        self._mask.destroy()
        for publisher in (self._label_info, self._camera_info):
            self._node.destroy_lifecycle_publisher(publisher)

    def needs(self) -> set[str]:
        """The inputs that it needs now; none while nobody subscribes."""
        if self._camera_info.get_subscription_count() > 0:
            return {"image", "camera_info"}
        return {"image"} if self._mask.wanted() else set()

    def announce(self) -> None:
        """Publish what the values mean. It never changes."""
        header = Header(stamp=self._node.get_clock().now().to_msg(), frame_id=SESSION)
        entries = [VisionClass(class_id=value, class_name=name) for value, name in self._view.class_map]
        self._label_info.publish(LabelInfo(header=header, class_map=entries))

    def publish(self, header: Header, result: Segmentation, measurements: Measurements) -> None:
        """Publish a frame's mask and calibration, each if somebody subscribes."""
        if self._mask.wanted():
            if result.vocabulary is not self._vocabulary:
                self._table = self._view.table(result.vocabulary)
                self._vocabulary = result.vocabulary
            self._mask.publish(header, look_up(self._table, result.labels), "mono8")
        if self._camera_info.get_subscription_count() > 0 and measurements.camera_info is not None:
            info = copy(measurements.camera_info)
            info.header = header
            self._camera_info.publish(info)
