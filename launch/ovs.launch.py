"""Open-vocabulary segmentation of one camera.

ros2 launch ovs_ros ovs.launch.py image:=/camera/color/image_raw camera_info:=/camera/color/camera_info \
    depth:=/camera/aligned_depth_to_color/image_raw vocabulary:=office
"""

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription

CONFIG = Path(get_package_share_directory("ovs_ros")) / "config"
PROFILE = "FASTDDS_DEFAULT_PROFILES_FILE"

ARGUMENTS = [
    DeclareLaunchArgument("image", default_value="image", description="Topic of the camera's images."),
    DeclareLaunchArgument(
        "depth",
        default_value="depth",
        description="Topic of depth images registered to the camera's images; points need it, labels do not.",
    ),
    DeclareLaunchArgument(
        "camera_info",
        default_value="camera_info",
        description="Topic of the camera's rectified calibration; points need it, labels do not.",
    ),
    DeclareLaunchArgument(
        "pose",
        default_value="pose",
        description="Topic of the camera's poses in a fixed frame; only the temporal filter 'pose' needs it.",
    ),
    DeclareLaunchArgument(
        "compressed",
        default_value="false",
        choices=["true", "false"],
        description="Take sensor_msgs/CompressedImage from the image topic with '/compressed' behind it.",
    ),
    DeclareLaunchArgument(
        "vocabulary",
        default_value="",
        description="The words at the start: a YAML file, or the name of one that comes with the package "
        "(home, office, street, warehouse). Empty: as params_file says.",
    ),
    DeclareLaunchArgument(
        "model",
        default_value="",
        description="The model: 'stream' for speed, 'quality' for detail, or a model file. Empty: as "
        "params_file says.",
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value=str(CONFIG / "ovs.yaml"),
        description="YAML file with the node's parameters.",
    ),
    DeclareLaunchArgument(
        "namespace",
        default_value="",
        description="Namespace of the node and of what it publishes: one for each camera.",
    ),
    DeclareLaunchArgument("node_name", default_value="ovs", description="Name of the node."),
    DeclareLaunchArgument(
        "autostart",
        default_value="true",
        choices=["true", "false"],
        description="Configure and activate at once; otherwise use 'ros2 lifecycle set'.",
    ),
    DeclareLaunchArgument(
        "use_sim_time",
        default_value="false",
        choices=["true", "false"],
        description="Take the time from /clock, as recordings and simulations need it.",
    ),
    DeclareLaunchArgument(
        "rviz", default_value="false", choices=["true", "false"], description="Start rviz2 with a ready view."
    ),
    DeclareLaunchArgument(
        "log_level",
        default_value="info",
        choices=["debug", "info", "warn", "error", "fatal"],
        description="What the node logs at least.",
    ),
]


def start(context: LaunchContext) -> list[Node]:
    """The node, and rviz2 if it is asked for."""

    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    parameters: dict[str, object] = {
        name: value(name) == "true" for name in ("compressed", "autostart", "use_sim_time")
    }
    parameters |= {name: value(name) for name in ("vocabulary", "model") if value(name)}
    nodes = [
        Node(
            package="ovs_ros",
            executable="ovs_node",
            name=value("node_name"),
            namespace=value("namespace"),
            parameters=[value("params_file"), parameters],
            remappings=[
                ("image", value("image")),
                ("image/compressed", value("image") + "/compressed"),
                ("depth", value("depth")),
                ("camera_info", value("camera_info")),
                ("pose", value("pose")),
            ],
            arguments=["--ros-args", "--log-level", f"{value('node_name')}:={value('log_level')}"],
            output="screen",
            emulate_tty=True,
        )
    ]
    if value("rviz") == "true":
        nodes.append(
            Node(
                package="rviz2",
                executable="rviz2",
                namespace=value("namespace"),
                arguments=["-d", str(CONFIG / "ovs.rviz")],
                parameters=[{"use_sim_time": parameters["use_sim_time"]}],
            )
        )
    return nodes


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` runs."""
    actions = list(ARGUMENTS)
    # Large best-effort images do not arrive with Fast DDS's own settings. Whoever has set a profile keeps it.
    if PROFILE not in os.environ:
        actions.append(SetEnvironmentVariable(PROFILE, str(CONFIG / "fastdds_large_data.xml")))
    return LaunchDescription([*actions, OpaqueFunction(function=start)])
