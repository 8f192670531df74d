"""/diagnostics: once a second, a status for each camera."""

import platform
from collections.abc import Callable, Sequence
from time import monotonic

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import Header

from ovs_ros.ros.camera import Camera
from ovs_ros.ros.diagnostics import Condition, Report, judge, values

PERIOD_S = 1.0
CLOCK_WARNING_S = 60.0
"""How often the log repeats a warning about the clock: a recording without one goes on."""


class DiagnosticsPublisher:
    """Publishes /diagnostics once a second, and warns in the log of a stream that does not arrive.

    Args:
        node: publishes.
        cameras: each gets a status of its own.
        condition: called for what is known of the node.

    Attributes:
        reports: what it told last, one for each camera; replaced as a whole. Any thread may read it.
    """

    def __init__(
        self, node: LifecycleNode, cameras: Sequence[Camera], condition: Callable[[], Condition]
    ) -> None:
        self._node = node
        self._cameras = cameras
        self._condition = condition
        self.reports: tuple[Report, ...] = ()
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # Not the node's own clock: with use_sim_time it may stand still.
        self._timer = node.create_timer(PERIOD_S, self.publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def destroy(self) -> None:
        """Stop publishing."""
        self._node.destroy_timer(self._timer)
        self._node.destroy_publisher(self._publisher)

    def publish(self) -> None:
        """Publish the figures of now."""
        condition = self._condition()
        header = Header(stamp=self._node.get_clock().now().to_msg())
        told = [self._status(camera, condition) for camera in self._cameras]
        self.reports = tuple(report for report, _ in told)
        self._publisher.publish(DiagnosticArray(header=header, status=[status for _, status in told]))

    def _status(self, camera: Camera, node: Condition) -> tuple[Report, DiagnosticStatus]:
        condition = camera.condition(node)
        summary, now = camera.statistics.summary(), monotonic()
        level, message, warning = judge(condition, summary, now)
        if warning is not None:
            camera.throttle.warn(warning, message, CLOCK_WARNING_S if warning == "clock" else 10.0)
        of_camera = f" {camera.name}" if camera.name else ""
        status = DiagnosticStatus(
            level=level,
            name=f"{self._node.get_fully_qualified_name()}: segmentation{of_camera}",
            # A device alone tells nothing where the status of several machines meet.
            hardware_id=f"{platform.node()} {condition.device}".strip(),
            message=message,
            values=[KeyValue(key=key, value=value) for key, value in values(condition, summary).items()],
        )
        return Report(camera.name, now, level[0], condition, summary), status
