"""The temporal filter as the node's parameters ask for it."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from std_msgs.msg import Header

from ovs_ros.geometry.flow import DownscaledFrame
from ovs_ros.options import OFF, NodeOptions
from ovs_ros.ros.conversions import ConversionError
from ovs_ros.ros.frames import nanoseconds
from ovs_ros.ros.measurements import Measurements
from ovs_ros.ros.throttle import Throttle
from ovs_ros.steps.segmentation import Segmentation
from ovs_ros.steps.temporal_filter import TemporalFilter, flow_filter, pose_filter

_MAKERS: dict[str, Callable[[], TemporalFilter[Any]]] = {"flow": flow_filter, "pose": pose_filter}


class TemporalFiltering:
    """Filters the frames between an activation and its end. For one thread, the worker's."""

    def __init__(self, throttle: Throttle) -> None:
        self._throttle = throttle
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
            sight, world = measurements.sight()
        except ConversionError as error:
            self._throttle.warn("temporal_filter", f"The temporal filter leaves a frame as it is: {error}")
            return result
        if world != self._world:
            # Poses in another frame say nothing about how the camera moved.
            temporal_filter.reset()
            self._world = world
        return temporal_filter.apply(result, stamp, sight)
