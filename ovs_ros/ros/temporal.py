"""The temporal filter as the node's parameters ask for it."""

from collections.abc import Callable
from typing import Any

from ovs_ros.geometry.warp import Warp
from ovs_ros.options import OFF, NodeOptions
from ovs_ros.ros.motion import motion
from ovs_ros.steps.segmentation import Segmentation
from ovs_ros.steps.temporal_filter import TemporalFilter


class TemporalFiltering:
    """Filters the frames between an activation and its end. For one thread.

    Args:
        shared: the motion between two views that others find too; None: it is the filter's own.
    """

    def __init__(self, shared: Callable[[Any, Any], Warp | None] | None = None) -> None:
        self._shared = shared
        self._kind: str = OFF
        self._filter: TemporalFilter[Any] | None = None

    def follow(self, options: NodeOptions) -> bool:
        """Take the parameters' values. Returns whether there is a filter."""
        if options.temporal_filter != self._kind:
            self._kind = options.temporal_filter
            off = self._kind == OFF
            self._filter = None if off else TemporalFilter(self._shared or motion(self._kind))
        if self._filter is not None:
            self._filter.time_constant = options.temporal_filter_time
        return self._filter is not None

    def apply(self, result: Segmentation, stamp: float, view: Any) -> Segmentation:
        """The frame filtered, if there is a filter.

        Args:
            result: of the frame.
            stamp: in seconds.
            view: as `Views` makes it.
        """
        return result if self._filter is None else self._filter.apply(result, stamp, view)
