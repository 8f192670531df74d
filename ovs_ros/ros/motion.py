"""What the motion between two frames is found from, as the node's parameters ask for it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from std_msgs.msg import Header

from ovs_ros.geometry.flow import DownscaledFrame, OpticalFlow
from ovs_ros.geometry.reprojection import Sight, reproject
from ovs_ros.geometry.warp import Warp
from ovs_ros.options import NodeOptions
from ovs_ros.ros.conversions import ConversionError
from ovs_ros.ros.frames import nanoseconds
from ovs_ros.ros.measurements import Measurements

if TYPE_CHECKING:
    from ovs_ros.ros.transforms import Transforms

FLOW = "flow"
"""The motion that the image alone shows; the other parameters' values ask for depth and poses."""


@dataclass(frozen=True, eq=False)
class Placed:
    """A sight, and the name of the frame that its pose is in."""

    sight: Sight
    world: str


def motion(kind: str) -> Callable[[Any, Any], Warp | None]:
    """Where the pixels of one view were in an earlier one; None where the two have nothing in common."""
    return OpticalFlow() if kind == FLOW else _reprojected


def _reprojected(now: Placed, before: Placed) -> Warp | None:
    # Poses in another frame say nothing about how the camera moved.
    return reproject(now.sight, before.sight) if now.world == before.world else None


class Views:
    """Makes the views of frames that `motion` compares. For one thread.

    Args:
        transforms: called for the listener to tf; None: there is none.
    """

    def __init__(self, transforms: Callable[[], "Transforms | None"]) -> None:
        self._transforms = transforms

    def of(
        self,
        kind: str,
        header: Header,
        image: NDArray[np.uint8],
        measurements: Measurements,
        options: NodeOptions,
    ) -> DownscaledFrame | Placed:
        """The view of an image (H, W, 3) uint8 RGB.

        Raises:
            ConversionError: what it needs is missing, or cannot be used.
        """
        if kind == FLOW:
            return DownscaledFrame.of(image)
        intrinsics, metres = measurements.intrinsics, measurements.metres
        pose, world = self._pose(header, measurements, options)
        return Placed(Sight(intrinsics, metres, pose), world)

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
