"""Nav2's semantic_segmentation_layer gets what it needs from the label view, whatever the words are."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from nav2_layer import Nav2Layer
from rig import depth_message, info_message, running

from ovs_ros.srv import SetVocabulary
from ovs_ros.vocabulary.label_view import load_view

ROOT = Path(__file__).parents[2]
SOURCE = yaml.safe_load((ROOT / "config" / "nav2_semantic_layer.yaml").read_text())["local_costmap"][
    "local_costmap"
]["ros__parameters"]["semantic_segmentation_layer"]["camera"]
Request = SetVocabulary.Request
# The shipped view with colours among its words, which the tests' encoders know.
COLORS = {"ground": "green", "rough": "brown", "danger": "red", "mover": "orange", "overhead": "blue"}
PICTURE = [["green", "red", "orange", "yellow", "black"]]
PIXELS = 32 * 32
COSTS = {0: PIXELS, 254: 3 * PIXELS, 100: PIXELS}  # of ground; danger, mover and the rest; unknown


def test_the_layers_parameters_have_a_cost_for_every_class_of_the_view():
    costed = [name for kind in SOURCE["class_types"] for name in SOURCE[kind]["classes"]]
    assert sorted(costed) == sorted(name for _, name in load_view("nav2").class_map)
    for kind in SOURCE["class_types"]:
        assert 0 <= SOURCE[kind]["base_cost"] <= SOURCE[kind]["max_cost"] <= 254


def test_the_launch_file_gives_the_topics_that_the_parameters_name():
    launch = (ROOT / "launch" / "nav2.launch.py").read_text()
    given = dict(re.findall(r'^    "([a-z0-9_/]+)": "([a-z_]+)",$', launch, re.MULTILINE))
    for ours, topic in {
        "views/nav2/mask": "segmentation_topic",
        "views/nav2/label_info": "labels_topic",
        "confidence": "confidence_topic",
        "points": "pointcloud_topic",
    }.items():
        assert SOURCE[topic] == f"/segmentation/{given[ours]}"


@pytest.fixture
def robot(vocabulary, tmp_path):
    view = load_view("nav2")
    classes = [{"name": n, "value": v, "words": [COLORS[n]]} for n, v in view.classes.items()]
    path = tmp_path / "nav2.yaml"
    path.write_text(yaml.safe_dump({"unknown": view.unknown, "rest": view.rest, "classes": classes}))
    remap = {
        "semantic/views/nav2/mask": SOURCE["segmentation_topic"],
        "semantic/views/nav2/label_info": SOURCE["labels_topic"],
    }
    with running(vocabulary, remap=remap, views=[str(path)], sync_slop=0.0005) as robot:
        topics = {"confidence_topic": "semantic/confidence", "pointcloud_topic": "semantic/points"}
        robot.layer = Nav2Layer(robot.helper, {**SOURCE, **topics})
        robot.send("camera_info", info_message(0, 160))
        set_words(robot, *COLOR_WORDS)
        # A reader can be known before its writer has matched it: the first frames may miss the layer.
        for ms in range(1, 1000):
            send(robot, ms)
            robot.of_stamp("semantic/categories", ms)
            if robot.layer.triples:
                break
        robot.layer.refused.clear()
        yield robot


def send(robot, ms):
    """Send a frame with depth."""
    robot.send("depth", depth_message(ms, np.full((32, 160), 2.0, np.float32)))
    robot.image(ms, PICTURE)


def triple(robot, ms):
    """Send a frame with depth, and wait for what the layer makes of it."""
    send(robot, ms)
    return robot.until(lambda: robot.layer.triples.get(ms * 1_000_000), f"the triple of {ms} ms")


def set_words(robot, *names):
    reply = robot.call(SetVocabulary, "ovs/set_vocabulary", Request(mode=Request.REPLACE, names=names))
    assert reply.success, reply.message


COLOR_WORDS = ("green", "red", "orange", "yellow")


def test_costs_stay_whatever_the_words_are(robot):
    assert triple(robot, 1001) == COSTS
    set_words(robot, *COLOR_WORDS[::-1], "cyan")
    assert triple(robot, 1002) == COSTS
    set_words(robot, *[f"word {i}" for i in range(330)], *COLOR_WORDS)
    assert triple(robot, 1003) == COSTS
    assert robot.of_stamp("semantic/image_raw", 1003).encoding == "16UC1"  # Nav2 would read it as garbage.
    set_words(robot, "yellow", "cyan")
    assert triple(robot, 1004)[0] == 0
    assert robot.layer.refused == []


def test_ten_thousand_changes_cost_no_triple(robot):
    """A triple for every frame between changes of words, and after them, with over 300 ids."""
    words = robot.node._words  # Over the service this would take minutes.
    for frame in range(50):
        for i in range(200):
            words.change(Request.REPLACE, [*COLOR_WORDS, f"word {i}"], [], [])
        assert triple(robot, 1000 + frame) == COSTS
    assert words.current.vocabulary.version > 10_000
    set_words(robot, *[f"word {i}" for i in range(400)], *COLOR_WORDS)
    for frame in range(50, 80):
        assert triple(robot, 1000 + frame) == COSTS
    assert robot.layer.refused == []
    assert robot.node.cameras[0].statistics.summary().dropped == {}
