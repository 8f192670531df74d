"""The files in config/ for other programs name topics that exist, as the node publishes them."""

import json
import re
from pathlib import Path
from typing import Any

import yaml
from rig import running

CONFIG = Path(__file__).parents[2] / "config"


def topics_in(value: Any) -> set[str]:
    """Every text in a document that begins like one of the node's topics."""
    if isinstance(value, dict):
        return topics_in(list(value)) | topics_in(list(value.values()))
    if isinstance(value, list):
        return {topic for item in value for topic in topics_in(item)}
    return (
        set(re.findall(r"^/?(?:semantic|diagnostics)[a-z0-9_/]*", value)) if isinstance(value, str) else set()
    )


def test_every_topic_exists_and_the_recorders_qos_fits(vocabulary):
    foxglove = json.loads((CONFIG / "foxglove.json").read_text())
    files = {
        "foxglove": foxglove,
        "rviz": yaml.safe_load((CONFIG / "ovs.rviz").read_text()),
        "elevation": yaml.safe_load((CONFIG / "elevation_mapping.yaml").read_text()),
        "rosbag": yaml.safe_load((CONFIG / "rosbag_qos.yaml").read_text()),
    }
    with running(vocabulary, views=["nav2", "nvblox", "cost"], channels=["red"]) as robot:
        published = dict(robot.helper.get_publisher_names_and_types_by_node("ovs", "/"))
        for name, document in files.items():
            topics = topics_in(document)
            assert topics and {f"/{topic.lstrip('/')}" for topic in topics} <= set(published), name
        for topic, qos in files["rosbag"].items():
            for publisher in robot.helper.get_publishers_info_by_topic(topic):
                offered = publisher.qos_profile
                assert offered.durability.name.lower() == qos["durability"]
                assert offered.reliability.name.lower() == qos["reliability"]
        latched = {t for t, kinds in published.items() if kinds == ["vision_msgs/msg/LabelInfo"]}
    assert latched <= set(files["rosbag"])


def test_foxgloves_layout_shows_each_panel_once():
    layout = json.loads((CONFIG / "foxglove.json").read_text())

    def panels(part: Any) -> list[str]:
        return [part] if isinstance(part, str) else panels(part["first"]) + panels(part["second"])

    assert sorted(panels(layout["layout"])) == sorted(layout["configById"])
