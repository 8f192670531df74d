#!/bin/bash
# Starts the launch file with the container's arguments.
. "/opt/ros/$ROS_DISTRO/setup.bash"
. /ws/install/setup.bash
exec ros2 launch ovs_ros ovs.launch.py "$@"
