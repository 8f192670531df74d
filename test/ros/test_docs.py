"""The topics, services, parameters and launch arguments that the guide names exist."""

import re
from contextlib import suppress
from pathlib import Path

import pytest
from rcl_interfaces.srv import ListParameters
from rclpy.node import NodeNameNonExistentError
from rig import running

from ovs_ros.ros.conversions import DEPTH_ENCODINGS, IMAGE_ENCODINGS

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guide"
TOPICS = (GUIDE / "topics.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.+?)(?=^## |\Z)", TOPICS, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def rows(title: str) -> dict[str, str]:
    """The first two columns of a section's table: names and types, as ROS writes them."""
    table = {}
    for names, kind in re.findall(r"^\| (`[^|]+`) \| (\w+/\w+)[^|]*\|", section(title), re.MULTILINE):
        for name in re.findall(r"`([^`]+)`", names):
            package, _, message = kind.partition("/")
            table[name] = f"{package}/{'srv' if title == 'Services' else 'msg'}/{message}"
    return table


def in_root(name: str) -> str:
    return name if name.startswith("/") else f"/{name.replace('~', 'ovs')}"


def test_topics_and_services(vocabulary):
    outputs, inputs, services = (
        {in_root(name): [kind] for name, kind in rows(title).items()}
        for title in ("Outputs", "Inputs", "Services")
    )
    for other in ("/image/compressed", "/depth/compressedDepth"):  # Instead of the plain ones, by parameter.
        del inputs[other]

    with running(vocabulary, temporal_filter="pose") as robot:
        robot.listen("semantic/cloud")  # Otherwise the node does not subscribe to clouds.
        helper = robot.helper

        def graph():
            try:
                taken = dict(helper.get_subscriber_names_and_types_by_node("ovs", "/"))
                published = dict(helper.get_publisher_names_and_types_by_node("ovs", "/"))
                served = dict(helper.get_service_names_and_types_by_node("ovs", "/"))
            except NodeNameNonExistentError:
                return None
            return (
                {n: kind for n, kind in published.items() if n in outputs or n.startswith("/semantic/")},
                {n: kind for n, kind in taken.items() if n in inputs},
                {
                    n: kind
                    for n, kind in served.items()
                    if n.startswith("/ovs/") and n.endswith(("_vocabulary", "/teach", "/embed"))
                },
            )

        # What a node has becomes known bit by bit.
        with suppress(AssertionError):
            robot.until(lambda: graph() == (outputs, inputs, services))
        assert graph() == (outputs, inputs, services)


@pytest.mark.parametrize(
    ("title", "encodings"), [("Image encodings", IMAGE_ENCODINGS), ("Depth encodings", DEPTH_ENCODINGS)]
)
def test_encodings(title, encodings):
    found = re.search(rf"^### {title}\n\n?(\|.+?)\n\n", TOPICS, re.DOTALL | re.MULTILINE)
    assert found is not None
    assert sorted(re.findall(r"`([a-z_0-9]+|\d+[A-Z]+\d)`", found[1].partition("|---")[2])) == sorted(
        encodings
    )


def test_parameters(vocabulary):
    with running(vocabulary) as robot:
        answer = robot.call(ListParameters, "ovs/list_parameters", ListParameters.Request())
    real = set(answer.result.names)
    pages = {page.name: page.read_text(encoding="utf-8") for page in GUIDE.glob("*.md")}
    del pages["neighbours.md"]  # It names the parameters of others.
    named = {
        (page, name)
        for page, text in pages.items()
        for name in re.findall(r"ros2 param (?:set|get|describe) /ovs ([a-z_]+)", text)
        + re.findall(r"`([a-z_]+): [a-z0-9.]+`", text)
    }
    assert not {
        one for one in named if one[1] not in real | {"model", "weights", "patches", "window", "stride"}
    }


def test_launch_arguments():
    launch = (ROOT / "launch" / "ovs.launch.py").read_text(encoding="utf-8")
    declared = set(re.findall(r'DeclareLaunchArgument\(\s*"(\w+)"', launch))
    parameters = re.search(r"^PARAMETERS = \((.+?)\)", launch, re.MULTILINE)
    assert parameters is not None
    declared |= set(re.findall(r'"(\w+)"', parameters[1]))
    robot = (GUIDE / "robot.md").read_text(encoding="utf-8")
    arguments = robot.partition("## Launch arguments")[2].partition("\n## ")[0]
    listed = set(re.findall(r"^\| `(\w+)` \|", arguments, re.MULTILINE))
    assert listed == declared
    pages = [ROOT / "README.md", *GUIDE.glob("*.md")]
    for page in pages:
        for command in re.findall(
            r"ros2 launch ovs_ros ovs\.launch\.py((?:[^\n]*\\\n)*[^\n]*)", page.read_text(encoding="utf-8")
        ):
            assert set(re.findall(r"(\w+):=", command)) <= declared, page.name
