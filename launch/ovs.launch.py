"""Open-vocabulary segmentation of one camera, or of several.

ros2 launch ovs_ros ovs.launch.py image:=/camera/color/image_raw camera_info:=/camera/color/camera_info \
    depth:=/camera/aligned_depth_to_color/image_raw vocabulary:=office
"""

from pathlib import Path
from typing import Any

from ament_index_python.packages import PackageNotFoundError, get_package_prefix, get_package_share_directory
from launch.actions import DeclareLaunchArgument, EmitEvent, LogInfo, OpaqueFunction
from launch.events import Shutdown
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.utilities import prefix_namespace

from launch import Action, LaunchContext, LaunchDescription
from ovs_ros.options import node_options
from ovs_ros.ros import shared_memory

CONFIG = Path(get_package_share_directory("ovs_ros")) / "config"
SWITCH = ["", "true", "false"]
SEVERAL = " Several, with commas between them."
PARAMETERS = ("vocabulary", "model", "views", "image_transport", "lazy", "autostart", "exit_on_failure")
"""The node's parameters that have a launch argument."""

CAMERA = "{camera}"
TOPICS = ("image", "depth", "camera_info", "pose", "cloud")
"""The node's inputs that have a launch argument."""

ARGUMENTS = [
    DeclareLaunchArgument(
        "cameras",
        default_value="",
        description="Names of several cameras, with commas between them; the topics' arguments then have "
        "{camera} in the place of the name. Empty: as params_file says.",
    ),
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
        "cloud",
        default_value="cloud",
        description="Topic of a lidar's clouds, which semantic/cloud labels.",
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
    *(
        DeclareLaunchArgument(
            name,
            default_value="",
            choices=SWITCH if option.kind is bool else None,
            description=f"{option.help}{SEVERAL if option.many else ''} Empty: as params_file says.",
        )
        for name, option in node_options().items()
        if name in PARAMETERS
    ),
    DeclareLaunchArgument(
        "respawn",
        default_value="false",
        choices=["true", "false"],
        description="Start the node again when it dies; otherwise the launch ends with an error then.",
    ),
    DeclareLaunchArgument(
        "use_sim_time",
        default_value="",
        choices=SWITCH,
        description="Take the time from /clock, as recordings and simulations need it. Empty: as params_file "
        "says.",
    ),
    DeclareLaunchArgument(
        "rviz", default_value="false", choices=["true", "false"], description="Start rviz2 with a ready view."
    ),
    DeclareLaunchArgument(
        "fixed_frame",
        default_value="camera_color_optical_frame",
        description="Frame in which rviz2 shows everything: the camera's optical one, or one that tf knows.",
    ),
    DeclareLaunchArgument(
        "log_level",
        default_value="info",
        choices=["debug", "info", "warn", "error", "fatal"],
        description="What the node logs at least.",
    ),
]


def start(context: LaunchContext) -> list[Action]:
    """The node, and rviz2 if it is asked for."""

    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    given = {name: value(name) for name in (*PARAMETERS, "use_sim_time") if value(name)}
    parameters: dict[str, Any] = {
        name: text == "true" if text in SWITCH else text for name, text in given.items()
    }
    names = listed(value("cameras"))
    if names:
        parameters["cameras"] = names
    if "views" in parameters:
        parameters["views"] = listed(value("views"))
    namespace = prefix_namespace(context.launch_configurations.get("ros_namespace"), value("namespace")) or ""
    logger = ".".join([*namespace.strip("/").split("/"), value("node_name")]).lstrip(".")
    respawn = value("respawn") == "true"
    actions: list[Action] = [
        Node(
            package="ovs_ros",
            executable="ovs_node",
            name=value("node_name"),
            namespace=value("namespace"),
            parameters=[value("params_file"), parameters],
            remappings=remappings(names, {topic: value(topic) for topic in TOPICS}),
            arguments=["--ros-args", "--log-level", f"{logger}:={value('log_level')}"],
            output="screen",
            emulate_tty=True,
            respawn=respawn,
            respawn_delay=2.0,
            on_exit=None if respawn else end,
        )
    ]
    if value("rviz") == "true":
        first = f"{value('namespace')}/{names[0]}".lstrip("/") if names else value("namespace")
        actions.append(rviz(first, value("fixed_frame"), value("use_sim_time") == "true"))
    return actions


def listed(text: str) -> list[str]:
    """The names in a list with commas between them."""
    return [name.strip() for name in text.split(",") if name.strip()]


def remappings(cameras: list[str], topics: dict[str, str]) -> list[tuple[str, str]]:
    """The remappings of the inputs: of one camera, or with cameras, of each.

    Args:
        cameras: their names; empty: one camera without a name.
        topics: input -> topic, with {camera} in the place of the name.

    Raises:
        RuntimeError: the topic of an input other than the lidar is the same for all cameras.
    """
    given = {name: topic for name, topic in topics.items() if topic != name}
    if not cameras:
        return list(given.items())
    for name, topic in given.items():
        if CAMERA not in topic and name != "cloud" and len(cameras) > 1:
            raise RuntimeError(f"expected {CAMERA} in {name}, as in /{CAMERA}/{name}, got {topic}")
    return [
        (f"{camera}/{name}", topic.replace(CAMERA, camera))
        for camera in cameras
        for name, topic in given.items()
    ]


def end(event: ProcessExited, context: LaunchContext) -> EmitEvent | None:
    """End the launch after the node, with an error if the node ended with one.

    Raises:
        RuntimeError: the node died. Only an exception gives ros2 launch an exit status other than 0.
    """
    if context.is_shutdown:
        return None
    if event.returncode:
        raise RuntimeError(f"ovs_node ended with exit status {event.returncode}")
    return EmitEvent(event=Shutdown(reason="ovs_node ended"))


def rviz(namespace: str, fixed_frame: str, use_sim_time: bool) -> Action:
    """rviz2 with a ready view, or a warning where it is not installed."""
    try:
        get_package_prefix("rviz2")
    except PackageNotFoundError:
        return LogInfo(msg="rviz2 is not installed, going on without: sudo apt install ros-$ROS_DISTRO-rviz2")
    return Node(
        package="rviz2",
        executable="rviz2",
        namespace=namespace,
        arguments=["-d", str(CONFIG / "ovs.rviz"), "-f", fixed_frame],
        parameters=[{"use_sim_time": use_sim_time}],
    )


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` runs."""
    # Large best-effort images do not arrive with Fast DDS's own settings. The processes inherit the profile.
    shortage = shared_memory.use_profile()
    notice = [LogInfo(msg=shortage)] if shortage else []
    return LaunchDescription([*ARGUMENTS, *notice, OpaqueFunction(function=start)])
