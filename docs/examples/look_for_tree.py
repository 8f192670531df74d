"""A behaviour tree that looks for things with the action ~/look_for: copy what you need.

python3 look_for_tree.py "fire extinguisher" --seconds 20

It needs the node, a camera and py_trees (sudo apt install ros-$ROS_DISTRO-py-trees, or pip install py_trees).
"""

import argparse
import sys

import py_trees
import rclpy
from builtin_interfaces.msg import Duration
from py_trees.common import Access, Status
from rclpy.action import ActionClient
from rclpy.node import Node

from ovs_ros.action import LookFor
from ovs_ros.msg import Sighting


class Look(py_trees.behaviour.Behaviour):
    """Looks for words: SUCCESS at the first sighting that is sure enough, FAILURE if there is none in time.

    The sighting is on the blackboard as `sighting`. The search is cancelled when the tree goes elsewhere.

    Args:
        name: of the behaviour.
        words: to look for; those that the node does not know are added for the search.
        seconds: how long to look.
        confidence: 0 to 1, the least of a sighting that counts.
        action: the action's name.
    """

    def __init__(
        self,
        name: str,
        words: list[str],
        seconds: int = 20,
        confidence: float = 0.5,
        action: str = "/ovs/look_for",
    ) -> None:
        super().__init__(name)
        self._goal = LookFor.Goal(words=words, duration=Duration(sec=seconds))
        self._confidence = confidence
        self._action = action
        self._blackboard = self.attach_blackboard_client()
        self._blackboard.register_key("sighting", Access.WRITE)
        self._accepted = self._ended = self._seen = None

    def setup(self, **given: Node) -> None:
        """Take the node that `tree.setup(node=node)` gives. Somebody must spin it."""
        self._client = ActionClient(given["node"], LookFor, self._action)

    def initialise(self) -> None:
        self._accepted = self._ended = self._seen = None

    def update(self) -> Status:
        if self._seen is not None:
            self._blackboard.sighting = self._seen
            self.feedback_message = f"{self._seen.name}: {self._seen.confidence:.0%} sure"
            return Status.SUCCESS
        if self._accepted is None:
            self.feedback_message = f"waiting for {self._action}"
            if self._client.server_is_ready():
                self.feedback_message = "asking"
                self._accepted = self._client.send_goal_async(self._goal, self._on_feedback)
        elif self._ended is None:
            if self._accepted.done():
                self.feedback_message = "looking"
                self._ended = self._accepted.result().get_result_async()
        elif self._ended.done():
            self.feedback_message = self._ended.result().result.message
            return Status.FAILURE
        return Status.RUNNING

    def terminate(self, new_status: Status) -> None:
        """Cancel the search if it still runs, also if the node has not accepted it yet."""
        if self._accepted is not None and not (self._ended and self._ended.done()):
            self._accepted.add_done_callback(lambda accepted: accepted.result().cancel_goal_async())
        self._accepted = None

    def _on_feedback(self, message: LookFor.Impl.FeedbackMessage) -> None:
        sighting: Sighting = message.feedback.sighting
        if self._seen is None and sighting.confidence >= self._confidence:
            self._seen = sighting


class Tell(py_trees.behaviour.Behaviour):
    """Tells where the thing is. Put the robot's own behaviour in its place."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._blackboard = self.attach_blackboard_client()
        self._blackboard.register_key("sighting", Access.READ)

    def update(self) -> Status:
        seen = self._blackboard.sighting
        box = ", ".join(map(str, seen.box))
        print(f"{seen.name} in {seen.header.frame_id}: x0, y0, x1, y1 = {box} pixels")
        return Status.SUCCESS


def main() -> None:
    """Tick the tree until it is done."""
    parser = argparse.ArgumentParser()
    parser.add_argument("words", nargs="+")
    parser.add_argument("--seconds", type=int, default=20)
    given = parser.parse_args()
    rclpy.init()
    node = Node("look_for_tree")
    look = Look("look", given.words, given.seconds)
    # A node that dies gives no answer.
    in_time = py_trees.decorators.Timeout("in time", child=look, duration=given.seconds + 10)
    find = py_trees.composites.Sequence("find", memory=True, children=[in_time, Tell("tell")])
    tree = py_trees.trees.BehaviourTree(find)
    tree.setup(node=node)
    node.create_timer(0.1, tree.tick)
    while tree.root.status in (Status.INVALID, Status.RUNNING):
        rclpy.spin_once(node)
    print(f"{tree.root.status.value}: {look.feedback_message}")
    rclpy.spin_once(node, timeout_sec=0.5)  # Lets the cancellation leave.
    sys.exit(tree.root.status != Status.SUCCESS)


if __name__ == "__main__":
    main()
