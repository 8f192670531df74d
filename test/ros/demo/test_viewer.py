import numpy as np
import pytest
from domain import own_context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image
from vision_msgs.msg import LabelInfo, VisionClass

from ovs_ros.msg import FrameCategories
from ovs_ros.ros.demo.viewer import CATEGORIES, LABELS, OVERLAY, Viewer

LATCHED = QoSProfile(depth=2, durability=DurabilityPolicy.TRANSIENT_LOCAL)
HEIGHT, WIDTH = 48, 64


@pytest.fixture
def robot():
    """A node that publishes what the segmenting node would, and a viewer of two frames."""
    with own_context() as context:
        sender = Node("sender", context=context)
        viewer = Viewer("ovs", (), 2, context=context)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(sender)
        executor.add_node(viewer)
        yield sender, viewer, executor
        executor.shutdown()
        viewer.destroy_node()
        sender.destroy_node()


def label_info(*names):
    return LabelInfo(class_map=[VisionClass(class_id=i, class_name=name) for i, name in enumerate(names)])


def test_a_frame_of_the_last_vocabulary_may_come_after_the_new_names(robot):
    sender, viewer, executor = robot
    infos = sender.create_publisher(LabelInfo, "semantic/label_info", LATCHED)
    frames = {
        topic: sender.create_publisher(kind, topic, 10)
        for topic, kind in ((LABELS, Image), (OVERLAY, Image), (CATEGORIES, FrameCategories))
    }
    infos.publish(label_info("wall", "floor"))
    infos.publish(label_info("floor", "bench"))
    while len(viewer.names) < 2 or viewer.names[1] != "bench":
        executor.spin_once(timeout_sec=5)
    while not all(publisher.get_subscription_count() for publisher in frames.values()):
        executor.spin_once(timeout_sec=0.02)
    for stamp, names in ((1, ["wall", "floor"]), (2, ["bench"])):
        categories = FrameCategories(
            version=stamp, names=names, shares=[1.0 / len(names)] * len(names), ids=range(len(names))
        )
        labels = Image(height=HEIGHT, width=WIDTH, encoding="mono8", data=bytes(HEIGHT * WIDTH))
        overlay = Image(height=HEIGHT, width=WIDTH, encoding="rgb8", data=bytes(3 * HEIGHT * WIDTH))
        for topic, message in ((LABELS, labels), (OVERLAY, overlay), (CATEGORIES, categories)):
            message.header.stamp.sec = stamp
            frames[topic].publish(message)
    executor.spin_until_future_complete(viewer.done, timeout_sec=20)
    assert viewer.complete == 2
    assert [np.ptp(picture[:, WIDTH:]) > 50 for picture in viewer.pictures] == [True, True]
