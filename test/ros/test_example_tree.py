"""The behaviour tree of docs/examples, with a node over DDS."""

import importlib.util
from pathlib import Path

import pytest
from rig import running

from ovs_ros.srv import GetVocabulary

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "look_for_tree.py"


@pytest.fixture
def example():
    spec = importlib.util.spec_from_file_location("look_for_tree", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Tree:
    """The example's behaviours, ticked by the robot."""

    def __init__(self, robot, example, words, seconds=60):
        self.look = example.Look("look", words, seconds)
        children = [self.look, example.Tell("tell")]
        self.tree = example.py_trees.trees.BehaviourTree(
            example.py_trees.composites.Sequence("find", memory=True, children=children)
        )
        self.tree.setup(node=robot.helper)
        self.status = example.Status
        self._robot = robot

    def tick(self):
        self.tree.tick()
        return self.tree.root.status

    def until(self, status, meanwhile=lambda: None):
        self._robot.until(lambda: meanwhile() or self.tick() == status, f"the status {status}")


def ends(robot):
    """Wait until the node has told the results of all searches, so that none outlives its node."""
    robot.until(lambda: not robot.node._look_for._at_work, "the end of the search")


def words(robot):
    reply = robot.call(GetVocabulary, "ovs/get_vocabulary", GetVocabulary.Request())
    return reply.version, list(reply.names)


def test_a_sighting_ends_the_search_with_success(vocabulary, example, capsys):
    with running(vocabulary) as robot:
        tree = Tree(robot, example, ["cyan"])
        tree.until(tree.status.RUNNING)
        tree.until(tree.status.SUCCESS, lambda: robot.image(1000, [["red", "cyan", "cyan"]]))
        said = capsys.readouterr().out
        assert "cyan in camera_optical_frame: x0, y0, x1, y1 = 32, 0, 96, 32 pixels" in said
        # It was cancelled: the word goes, long before the minute is over.
        ends(robot)
        assert words(robot) == (3, ["red", "green", "blue"])


def test_time_that_ends_without_a_sighting_is_a_failure(vocabulary, example):
    with running(vocabulary) as robot:
        tree = Tree(robot, example, ["cyan"], seconds=1)
        tree.until(tree.status.FAILURE, lambda: robot.image(1000, [["red"]]))
        assert "seen in 0 of" in tree.look.feedback_message
        tree.until(tree.status.SUCCESS, lambda: robot.image(1000, [["cyan"]]))  # Another search.
        ends(robot)


def test_a_tree_that_goes_elsewhere_cancels_the_search(vocabulary, example):
    with running(vocabulary) as robot:
        tree = Tree(robot, example, ["cyan"])
        robot.until(lambda: tree.tick() and tree.look.feedback_message == "asking", "the goal")
        tree.tree.root.stop(tree.status.INVALID)  # Before the node has accepted it.
        # The word is added under version 2, and goes under version 3, long before the minute is over.
        robot.until(lambda: words(robot) == (3, ["red", "green", "blue"]), "the end of the search")
        ends(robot)
