"""What the colours of the overlay mean, as markers beside the camera's view, for rviz2 and Foxglove."""

from geometry_msgs.msg import Point, Pose, Vector3
from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from ovs_ros.render import legend_rows
from ovs_ros.ros.measurements import Measurements
from ovs_ros.ros.qos import STREAM
from ovs_ros.steps.segmentation import Segmentation
from ovs_ros.vocabulary.colors import Color

LINE = 0.05
"""Metres from one row to the next. The legend stands 1 m before the camera, to the right."""
_LEFT, _TOP, _DISTANCE, _TEXT_LEFT = 0.5, -0.4, 1.0, 0.75
_WHITE = (255, 255, 255)


class LegendOutput:
    """Publishes the names that a frame shows with their colours and shares. For one thread, the worker's.

    Args:
        node: publishes.
        prefix: stands before the topic's name: empty, or a camera's name and '/'.
    """

    def __init__(self, node: LifecycleNode, prefix: str) -> None:
        self._node = node
        self._publisher = node.create_lifecycle_publisher(MarkerArray, f"{prefix}semantic/legend", STREAM)

    def destroy(self) -> None:
        """Destroy the publisher."""
        self._node.destroy_lifecycle_publisher(self._publisher)

    def needs(self) -> set[str]:
        """The inputs that it needs now; none while nobody subscribes."""
        return {"image"} if self._publisher.get_subscription_count() > 0 else set()

    def announce(self) -> None:
        """Nothing holds for all frames."""

    def publish(self, header: Header, result: Segmentation, measurements: Measurements) -> None:
        """Publish a frame's legend if somebody subscribes."""
        if not self.needs():
            return
        shares = dict(zip(result.selected_names, result.shares.tolist(), strict=True))
        rows = legend_rows(result.vocabulary.names, shares, result.unknown_share)
        markers = [Marker(header=header, action=Marker.DELETEALL)]
        for row, (name, color, share) in enumerate(rows):
            y = _TOP + row * LINE
            swatch, text = _marker(header, row, _LEFT, y, color), _marker(header, row, _TEXT_LEFT, y, _WHITE)
            swatch.ns, swatch.type = "colours", Marker.CUBE
            text.ns, text.type, text.text = "names", Marker.TEXT_VIEW_FACING, f"{name} {share:.0%}"
            markers += [swatch, text]
        self._publisher.publish(MarkerArray(markers=markers))


def _marker(header: Header, number: int, x: float, y: float, color: Color) -> Marker:
    red, green, blue = (value / 255 for value in color)
    size = 0.8 * LINE
    return Marker(
        header=header,
        id=number,
        pose=Pose(position=Point(x=x, y=y, z=_DISTANCE)),
        scale=Vector3(x=size, y=size, z=size),
        color=ColorRGBA(r=red, g=green, b=blue, a=1.0),
    )
