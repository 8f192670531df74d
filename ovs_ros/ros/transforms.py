"""Where frames lie to each other, from tf.

tf has a node, an executor and a thread of its own: a robot sends hundreds of transforms a second, and neither
they nor the frames at work shall wait for each other.
"""

import threading
from contextlib import suppress
from time import monotonic, sleep

import numpy as np
from geometry_msgs.msg import PoseStamped, TransformStamped
from numpy.typing import NDArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.time import Time
from tf2_ros import Buffer, ExtrapolationException, TransformException, TransformListener

from ovs_ros.ros.conversions import ConversionError, pose_to_matrix
from ovs_ros.runtime.quoting import quoted

WAIT_S = 0.1
"""How long a lookup waits for transforms that come after the message that needs them."""
IN_VAIN_S = 2.0
"""For how long lookups between two frames do not wait after one has waited in vain."""
_POLL_S = 0.005


class Transforms:
    """Listens to /tf and /tf_static, as the node's remappings name them, until it is closed."""

    def __init__(self, node: Node) -> None:
        topics = ("/tf", "/tf_static")
        renamed = [part for topic in topics for part in ("-r", f"{topic}:={node.resolve_topic_name(topic)}")]
        self._node = Node(
            f"{node.get_name()}_tf",
            namespace=node.get_namespace(),
            context=node.context,
            # The process's arguments would give this node the other one's name.
            use_global_arguments=False,
            cli_args=["--ros-args", *renamed],
            enable_rosout=False,
            start_parameter_services=False,
            parameter_overrides=[Parameter("use_sim_time", value=node.get_parameter("use_sim_time").value)],
        )
        self._in_vain: dict[tuple[str, str], float] = {}
        self._buffer = Buffer(node=self._node)
        self._listener = TransformListener(self._buffer, self._node)
        self._executor = SingleThreadedExecutor(context=node.context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name="tf", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._executor.shutdown()
        self._thread.join()
        self._node.destroy_node()

    def between(
        self, target: str, target_stamp: int, source: str, source_stamp: int, fixed: str = ""
    ) -> NDArray[np.float64]:
        """The rigid motion (4, 4) from one frame at its stamp to another frame at its own.

        Waits up to WAIT_S for transforms that are on their way. Any thread may call it.

        Args:
            target, source: the frames.
            target_stamp, source_stamp: nanoseconds.
            fixed: a frame that stays where it is between the two stamps. Where it is empty, or tf does not
                know it, both frames are taken at the stamp of the source.

        Raises:
            ConversionError: tf does not have the transform; says what to do.
        """
        pair = (target, source)
        patience = 0.0 if monotonic() < self._in_vain.get(pair, 0.0) + IN_VAIN_S else WAIT_S
        end = monotonic() + patience
        while True:
            try:
                return _matrix(self._look_up(target, target_stamp, source, source_stamp, fixed))
            except ExtrapolationException as error:
                problem: TransformException = error
                if monotonic() < end:
                    sleep(_POLL_S)
                    continue
                if patience:
                    self._in_vain[pair] = monotonic()
            except TransformException as error:
                problem = error
            if not fixed and target == source:
                return np.eye(4)
            if not fixed:
                raise ConversionError(
                    f"expected a transform from {quoted(source)} to {quoted(target)} in tf, got none "
                    f"({quoted(str(problem))}); start robot_state_publisher and odometry, or publish where "
                    "the sensor is mounted: ros2 run tf2_ros static_transform_publisher --frame-id "
                    f"{quoted(target)} --child-frame-id {quoted(source)} --x …"
                ) from problem
            fixed = ""

    def _look_up(
        self, target: str, target_stamp: int, source: str, source_stamp: int, fixed: str
    ) -> TransformStamped:
        at = Time(nanoseconds=source_stamp)
        if not fixed:
            return self._buffer.lookup_transform(target, source, at)
        return self._buffer.lookup_transform_full(target, Time(nanoseconds=target_stamp), source, at, fixed)

    def _spin(self) -> None:
        with suppress(ExternalShutdownException):
            self._executor.spin()


def _matrix(transform: TransformStamped) -> NDArray[np.float64]:
    pose = PoseStamped()
    shift = transform.transform.translation
    pose.pose.position.x, pose.pose.position.y, pose.pose.position.z = shift.x, shift.y, shift.z
    pose.pose.orientation = transform.transform.rotation
    return pose_to_matrix(pose)
