"""A bridge from clicks to `~/teach`: rviz's *Publish Point* and Foxglove's clicks teach a category.

python -m ovs_ros.ros.teach_point --ros-args -p name:="my mug" -p examples_only:=true -p service:=/ovs/teach

Points come on the topic `clicked_point` in the camera's optical frame, and `camera_info` projects them. A
point with z = 0 has x and y in pixels.
"""

from collections.abc import Sequence
from typing import Any

import rclpy
from geometry_msgs.msg import PointStamped
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from sensor_msgs.msg import CameraInfo

from ovs_ros.ros.conversions import ConversionError, intrinsics_from
from ovs_ros.runtime.quoting import quoted
from ovs_ros.srv import Teach


class TeachPoint(Node):
    """Calls the service with each point that comes.

    Parameters: `name`, what is taught; `camera`, `examples_only` and `negative`, as in Teach.srv; `service`.
    All but the last may change while the node runs.
    """

    def __init__(self, parameters: Sequence[Parameter] = (), **node_options: Any) -> None:
        super().__init__("teach_point", parameter_overrides=list(parameters), **node_options)
        for name, default in (("name", ""), ("camera", ""), ("examples_only", False), ("negative", False)):
            self.declare_parameter(name, default)
        service = str(self.declare_parameter("service", "ovs/teach").value)
        self._client = self.create_client(Teach, service)
        self._info: CameraInfo | None = None
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self.create_subscription(CameraInfo, "camera_info", self._take_info, best_effort)
        self.create_subscription(PointStamped, "clicked_point", self._teach, 10)

    def _take_info(self, message: CameraInfo) -> None:
        self._info = message

    def _teach(self, click: PointStamped) -> None:
        try:
            x, y = self._pixel(click)
        except ConversionError as error:
            self.get_logger().warning(f"A point is dropped: {error}")
            return
        given = {p: self.get_parameter(p).value for p in ("name", "camera", "examples_only", "negative")}
        if not self._client.service_is_ready():
            self.get_logger().warning(
                f"A point is dropped: nobody offers {self._client.srv_name}; set the parameter 'service'"
            )
            return
        request = Teach.Request(**given, points=[x, y], stamp=click.header.stamp)
        self._client.call_async(request).add_done_callback(self._report)

    def _report(self, answer: Future) -> None:
        reply = answer.result()
        log = self.get_logger()
        (log.info if reply.success else log.warning)(reply.message)

    def _pixel(self, click: PointStamped) -> tuple[int, int]:
        """Where a point is in the image.

        Raises:
            ConversionError: it is behind the camera or outside of the image, or there is no calibration yet.
        """
        point = click.point
        x, y = point.x, point.y
        if point.z != 0:
            if self._info is None:
                raise ConversionError("expected a camera_info to project it, got none yet; check the topic")
            frame = self._info.header.frame_id
            if click.header.frame_id != frame:
                raise ConversionError(
                    f"expected a point in the camera's frame '{frame}', got one in "
                    f"{quoted(click.header.frame_id)}; choose the camera's as the fixed frame"
                )
            if point.z < 0:
                raise ConversionError("expected a point before the camera, got one behind it")
            camera = intrinsics_from(self._info)
            x = camera.fx * point.x / point.z + camera.cx
            y = camera.fy * point.y / point.z + camera.cy
        if x < 0 or y < 0:
            raise ConversionError(f"expected a point inside the image, got {x:.0f}, {y:.0f}")
        return int(x), int(y)


def main() -> None:
    """Run the node until it is interrupted."""
    rclpy.init()
    node = TeachPoint()
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
