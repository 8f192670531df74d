"""ovs.launch.py for Nav2's semantic_segmentation_layer: the label view nav2 on the topics of Nav2's tutorial.

ros2 launch ovs_ros nav2.launch.py image:=/camera/color/image_raw camera_info:=/camera/color/camera_info \
    depth:=/camera/aligned_depth_to_color/image_raw vocabulary:=office
"""

from pathlib import Path

from launch.actions import DeclareLaunchArgument, GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import SetRemap

from launch import LaunchDescription

INPUTS = {
    "image": "/rgbd_camera/image",
    "depth": "/rgbd_camera/depth_image",
    "camera_info": "/rgbd_camera/camera_info",
}
TOPICS = {
    "views/nav2/mask": "mask",
    "views/nav2/label_info": "label_info",
    "confidence": "confidence",
    "points": "points",
    "overlay": "overlay",
}
"""Below 'semantic' -> below the tutorial's /segmentation, as config/nav2_semantic_layer.yaml has them."""


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` runs. It takes the arguments of ovs.launch.py too."""
    arguments = [
        DeclareLaunchArgument(name, default_value=topic, description=f"Topic of the camera's {name}.")
        for name, topic in INPUTS.items()
    ]
    arguments.append(
        DeclareLaunchArgument(
            "segmentation", default_value="/segmentation", description="Where the layer's topics are."
        )
    )
    arguments.append(
        DeclareLaunchArgument(
            "views", default_value="nav2", description="The label view: nav2, or a changed copy, nav2.yaml."
        )
    )
    node = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(Path(__file__).with_name("ovs.launch.py"))),
        launch_arguments={name: LaunchConfiguration(name) for name in ("views", *INPUTS)}.items(),
    )
    remaps = [
        SetRemap(f"semantic/{ours}", [LaunchConfiguration("segmentation"), f"/{theirs}"])
        for ours, theirs in TOPICS.items()
    ]
    return LaunchDescription([*arguments, GroupAction([*remaps, node])])
