"""One node over DDS: which topics it takes, and what it says of transports that it does not take."""

import math
from array import array

import pytest
from rig import header, running
from sensor_msgs.msg import CompressedImage

from ovs_ros.options import NodeOptions
from ovs_ros.ros import diagnostics


def taken(robot):
    return {
        name
        for name, _ in robot.helper.get_subscriber_names_and_types_by_node("ovs", "/")
        if "image" in name or "info" in name
    }


@pytest.mark.parametrize(
    ("remap", "parameters", "topics"),
    [
        ({}, {}, {"/image", "/camera_info"}),
        ({"image": "/cam/color/image_raw"}, {}, {"/cam/color/image_raw", "/cam/color/camera_info"}),
        ({"image": "/cam/image", "camera_info": "/other/info"}, {}, {"/cam/image", "/other/info"}),
        (
            {"image": "/cam/image"},
            {"image_transport": "compressed"},
            {"/cam/image/compressed", "/cam/camera_info"},
        ),
        (
            {"image": "/cam/image", "image/compressed": "/jpeg_image"},
            {"image_transport": "compressed"},
            {"/jpeg_image", "/cam/camera_info"},
        ),
        (
            {"front/image": "/cam/image"},
            {"cameras": ["front", "rear"]},
            {"/cam/image", "/cam/camera_info", "/rear/image", "/rear/camera_info"},
        ),
    ],
)
def test_what_belongs_to_an_image_is_found_beside_it(vocabulary, remap, parameters, topics):
    with running(vocabulary, remap=remap, **parameters) as robot:
        robot.until(lambda: taken(robot) == topics, f"{topics}, got {taken(robot)}")
        assert set().union(*(camera.topics for camera in robot.node.cameras)) >= topics


@pytest.mark.parametrize(
    ("transport", "plugin"), [("ffmpeg", "ffmpeg"), ("h264", "ffmpeg"), ("theora", "theora")]
)
@pytest.mark.parametrize("distribution", ["humble", "jazzy"])
def test_video_is_refused_with_the_command_that_decodes_it(transport, plugin, distribution, monkeypatch):
    monkeypatch.setenv("ROS_DISTRO", distribution)
    with pytest.raises(ValueError, match="expected image_transport to be one of raw, compressed") as error:
        NodeOptions(image_transport=transport)
    arguments = {
        "humble": f"republish {plugin} raw --ros-args",
        "jazzy": f"republish --ros-args -p in_transport:={plugin} -p out_transport:=raw",
    }[distribution]
    remappings = f"-r in/{plugin}:=IMAGE/{plugin} -r out:=IMAGE_decoded"
    assert f"ros2 run image_transport {arguments} {remappings}" in str(error.value)


def test_video_in_compressed_images_is_told(vocabulary):
    with running(vocabulary, image_transport="compressed") as robot:
        robot.send(
            "image/compressed", CompressedImage(header=header(1), format="h264", data=array("B", b"\0" * 9))
        )
        robot.until(lambda: robot.warnings, "the warning")
        assert "got the format 'h264'; run 'ros2 run image_transport republish" in robot.warnings[0]


@pytest.mark.parametrize(
    ("published", "transport", "text"),
    [
        ("/cam/raw/ffmpeg", "raw", "in/ffmpeg:=/cam/raw/ffmpeg -r out:=/cam/raw_decoded"),
        ("/cam/raw/compressed", "raw", "set the parameter image_transport to compressed"),
        ("/cam/raw", "compressed", "set the parameter image_transport to raw"),
    ],
)
def test_images_that_come_by_another_transport_are_told(vocabulary, monkeypatch, published, transport, text):
    monkeypatch.setattr(diagnostics, "SILENCE_S", math.inf)
    with running(vocabulary, remap={"image": "/cam/raw"}, image_transport=transport) as robot:
        robot.helper.create_publisher(CompressedImage, published, 1)
        robot.until(lambda: robot.node.count_publishers(published), "the publisher")
        monkeypatch.setattr(diagnostics, "SILENCE_S", 0.0)
        robot.until(lambda: any(text in warning for warning in robot.warnings), text)
