"""Images of 0.9 MB pass best effort between two processes: what the profile in config/ is there for."""

import os
import subprocess
import sys
from time import monotonic

import rclpy
from domain import own_context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image

FRAMES = 240  # At 30 Hz: discovery may take up to three seconds of it.
DEADLINE_S = 60.0


def test_every_image_arrives():
    images: dict[int, int] = {}
    infos: set[int] = set()

    def stamp(message):
        return message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec

    def on_image(message):
        images[stamp(message)] = len(message.data)

    with own_context() as context:
        node = rclpy.create_node("listener", context=context)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        node.create_subscription(Image, "image", on_image, qos_profile_sensor_data)
        node.create_subscription(CameraInfo, "camera_info", lambda m: infos.add(stamp(m)), 100)
        command = [sys.executable, "-m", "ovs_ros.ros.demo.camera", "--rate", "30", "--frames", str(FRAMES)]
        camera = subprocess.Popen(command, env={**os.environ, "ROS_DOMAIN_ID": str(context.get_domain_id())})
        try:
            deadline = monotonic() + DEADLINE_S
            while camera.poll() is None and monotonic() < deadline:
                executor.spin_once(timeout_sec=0.2)
            assert camera.poll() == 0, "the camera did not end in time"
            while images and max(images) < max(infos) and monotonic() < deadline:
                executor.spin_once(timeout_sec=0.2)
        finally:
            camera.kill()
            camera.wait()
            executor.shutdown()
            node.destroy_node()

    assert set(images.values()) == {640 * 480 * 3}
    # Small messages always arrive: they tell what was published since the two found each other.
    published = {stamp for stamp in infos if stamp >= min(images)}
    assert len(published) > FRAMES // 3
    assert published <= set(images), f"{len(published - set(images))} of {len(published)} images were lost"
