"""Subscribers that are killed do not hold up publishing: the profile in config/ lets DDS forget them soon."""

import os
import subprocess
import sys
from time import monotonic

import pytest
from rig import running

FORGOTTEN_S = 12.0
"""Longer than the profile's lease of 3 s, and shorter than Fast DDS's own of 20 s."""
TOPICS = ("semantic/image_raw", "semantic/confidence", "semantic/overlay")
LISTENER = f"""
import rclpy
from sensor_msgs.msg import Image
rclpy.init()
node = rclpy.create_node("listener")
for topic in {TOPICS}:
    node.create_subscription(Image, topic, lambda message: print("got", topic, flush=True), 5)  # reliable
rclpy.spin(node)
"""
PICTURE = [["red"] * 20] * 15  # 640x480 pixels


@pytest.mark.fault(
    "subscribers are killed", "publishing goes on; DDS forgets them within 3 s, with the profile"
)
def test_three_reliable_subscribers_are_killed_at_once(vocabulary):
    with running(vocabulary) as robot:
        before = {topic: robot.node.count_subscribers(topic) for topic in TOPICS}
        environment = {**os.environ, "ROS_DOMAIN_ID": str(robot.node.context.get_domain_id())}
        listeners = [
            subprocess.Popen([sys.executable, "-c", LISTENER], env=environment, stdout=subprocess.PIPE)
            for _ in range(3)
        ]
        try:

            def listening(count):
                return all(
                    robot.node.count_subscribers(topic) == number + count for topic, number in before.items()
                )

            robot.until(lambda: listening(3), "the listeners")
            stamps = iter(range(1, 10**6))
            robot.segment(next(stamps), PICTURE)
            for listener in listeners:
                assert listener.stdout.readline().startswith(b"got")
            for listener in listeners:
                listener.kill()
            end = monotonic() + FORGOTTEN_S
            frames = 0
            while not listening(0):
                assert monotonic() < end, f"DDS still knows subscribers that were killed {FORGOTTEN_S} s ago"
                robot.segment(next(stamps), PICTURE)
                frames += 1
            assert frames > 3
            for _ in range(10):
                robot.segment(next(stamps), PICTURE)
        finally:
            for listener in listeners:
                listener.kill()
                listener.wait()
