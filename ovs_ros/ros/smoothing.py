"""Temporal smoothing as the node's parameters ask for it."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from std_msgs.msg import Header

from ovs_ros.geometry.flow import Glance
from ovs_ros.ros.conversions import ConversionError
from ovs_ros.ros.measurements import Measurements
from ovs_ros.ros.parameters import Settings
from ovs_ros.ros.synchroniser import nanoseconds
from ovs_ros.ros.throttle import Throttle
from ovs_ros.steps.segmentation import Segmentation
from ovs_ros.steps.temporal_filter import TemporalSmoother, flow_smoother, pose_smoother

_MAKERS: dict[str, Callable[[], TemporalSmoother[Any]]] = {"flow": flow_smoother, "pose": pose_smoother}


class Smoothing:
    """Smooths the frames between an activation and its end. For one thread, the worker's.

    Args:
        measurements: of the frame at work.
        throttle: told why frames are not smoothed.
    """

    def __init__(self, measurements: Measurements, throttle: Throttle) -> None:
        self._measurements = measurements
        self._throttle = throttle
        self._way = "off"
        self._world = ""
        self._smoother: TemporalSmoother[Any] | None = None

    def apply(
        self, header: Header, image: NDArray[np.uint8], result: Segmentation, settings: Settings
    ) -> Segmentation:
        """The frame smoothed, or as it is where smoothing is off or what it needs is missing."""
        if settings.smoothing != self._way:
            self._way = settings.smoothing
            self._smoother = _MAKERS[self._way]() if self._way in _MAKERS else None
        smoother = self._smoother
        if smoother is None:
            return result
        smoother.time_constant = settings.smoothing_time
        stamp = nanoseconds(header) / 1e9
        if self._way == "flow":
            return smoother.smooth(result, stamp, Glance.of(image))
        try:
            sight, world = self._measurements.sight()
        except ConversionError as error:
            self._throttle.warn("smoothing", f"A frame is not smoothed: {error}")
            return result
        if world != self._world:
            # Poses in another frame say nothing about how the camera moved.
            smoother.reset()
            self._world = world
        return smoother.smooth(result, stamp, sight)
