"""Transports of images that the node does not take, and the command that republishes them."""

import os

PLUGINS = {
    "ffmpeg": "ffmpeg",
    "h264": "ffmpeg",
    "h265": "ffmpeg",
    "hevc": "ffmpeg",
    "theora": "theora",
    "zstd": "zstd",
}
"""A transport or codec -> the plugin of image_transport that decodes it."""


def republish(transport: str, image: str = "IMAGE") -> str:
    """The advice to publish the images of a transport again as plain ones.

    Args:
        transport: a key of PLUGINS.
        image: the topic of the images, without the transport's name.
    """
    plugin = PLUGINS[transport]
    program, remappings = (
        "ros2 run image_transport republish",
        (f"-r in/{plugin}:={image}/{plugin} -r out:={image}_decoded"),
    )
    if os.environ.get("ROS_DISTRO") == "humble":
        command = f"{program} {plugin} raw --ros-args {remappings}"
    else:
        command = f"{program} --ros-args -p in_transport:={plugin} -p out_transport:=raw {remappings}"
    return f"run '{command}' and remap 'image' to {image}_decoded"
