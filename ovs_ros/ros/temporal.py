"""The temporal filter as the node's parameters ask for it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from std_msgs.msg import Header

from ovs_ros.geometry.flow import DownscaledFrame
from ovs_ros.geometry.reprojection import Sight
from ovs_ros.options import OFF, NodeOptions
from ovs_ros.ros.conversions import ConversionError
from ovs_ros.ros.frames import nanoseconds
from ovs_ros.ros.measurements import Measurements
from ovs_ros.ros.throttle import Throttle
from ovs_ros.steps.segmentation import Segmentation
from ovs_ros.steps.temporal_filter import TemporalFilter, flow_filter, pose_filter

if TYPE_CHECKING:
    from ovs_ros.ros.transforms import Transforms

_MAKERS: dict[str, Callable[[], TemporalFilter[Any]]] = {"flow": flow_filter, "pose": pose_filter}


class TemporalFiltering:
    """Filters the frames between an activation and its end. For one thread, the worker's.

    Args:
        throttle: takes warnings.
        transforms: called for the listener to tf; None: there is none.
    """

    def __init__(self, throttle: Throttle, transforms: Callable[[], "Transforms | None"]) -> None:
        self._throttle = throttle
        self._transforms = transforms
        self._kind: str = OFF
        self._world = ""
        self._filter: TemporalFilter[Any] | None = None

    def apply(
        self,
        header: Header,
        image: NDArray[np.uint8],
        measurements: Measurements,
        result: Segmentation,
        options: NodeOptions,
    ) -> Segmentation:
        """The frame filtered, or as it is where the filter is off or what it needs is missing."""
        if options.temporal_filter != self._kind:
            self._kind = options.temporal_filter
            self._filter = _MAKERS[self._kind]() if self._kind in _MAKERS else None
        temporal_filter = self._filter
        if temporal_filter is None:
            return result
        temporal_filter.time_constant = options.temporal_filter_time
        stamp = nanoseconds(header) / 1e9
        if self._kind == "flow":
            return temporal_filter.apply(result, stamp, DownscaledFrame.of(image))
        try:
            intrinsics, metres = measurements.intrinsics, measurements.metres
            pose, world = self._pose(header, measurements, options)
        except ConversionError as error:
            self._throttle.warn("temporal_filter", f"The temporal filter leaves a frame as it is: {error}")
            return result
        if world != self._world:
            # Poses in another frame say nothing about how the camera moved.
            temporal_filter.reset()
            self._world = world
        return temporal_filter.apply(result, stamp, Sight(intrinsics, metres, pose))

    def _pose(
        self, header: Header, measurements: Measurements, options: NodeOptions
    ) -> tuple[NDArray[np.float64], str]:
        """The rigid motion (4, 4) from the camera to a fixed frame, and the frame's name."""
        if options.pose_source == "topic":
            return measurements.pose()
        transforms, world = self._transforms(), options.fixed_frame
        if transforms is None or not world:
            raise ConversionError(
                "expected tf2_ros and a fixed_frame for poses from tf, got none; set fixed_frame, for "
                "example to odom"
            )
        stamp = nanoseconds(header)
        return transforms.between(world, stamp, header.frame_id, stamp), world
