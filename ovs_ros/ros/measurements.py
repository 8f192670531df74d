"""What belongs to the frame at work beside its image: depth, calibration and pose."""

import numpy as np
from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from ovs_ros.geometry.points import Intrinsics
from ovs_ros.geometry.reprojection import Sight
from ovs_ros.ros.conversions import ConversionError, depth_to_metres, intrinsics_from, pose_to_matrix
from ovs_ros.ros.inputs import Taps
from ovs_ros.ros.synchroniser import nanoseconds
from ovs_ros.ros.throttle import Throttle

COMPANION_WAIT_S = 0.1
"""How long depth, and how long a pose, may come after the labels that they belong to."""


class Measurements:
    """Looks up what belongs to a frame, each thing once a frame. For one thread, the worker's.

    Args:
        taps: where depth, poses and calibration come from.
        throttle: takes warnings about what is used nevertheless.
    """

    def __init__(self, taps: Taps, throttle: Throttle) -> None:
        self._taps = taps
        self._throttle = throttle
        self._header = Header()
        self._size = (0, 0)
        self._depth: Image | None = None
        self._looked = False
        self._metres: NDArray[np.float32] | None = None
        self._info: CameraInfo | None = None
        self._intrinsics: Intrinsics | None = None

    def start(self, header: Header, size: tuple[int, int]) -> None:
        """Turn to the frame of this header and this size (H, W)."""
        self._header, self._size = header, size
        self._depth = self._metres = None
        self._looked = False

    def has_depth(self) -> bool:
        """Whether depth is there; waits for it a little."""
        if not self._looked:
            self._looked = True
            self._depth = self._taps.mailbox.companion(Image, nanoseconds(self._header), COMPANION_WAIT_S)
        return self._depth is not None

    def intrinsics(self) -> Intrinsics:
        """The camera's newest calibration. The same object as before while that does not change.

        Raises:
            ConversionError: there is none, it is of no use, or it is for images of another size.
        """
        info = self._taps.camera_info()
        if info is None:
            raise ConversionError("expected a camera_info, got none yet; remap 'camera_info' to the camera's")
        if self._intrinsics is None or info is not self._info:
            intrinsics = intrinsics_from(info)
            if intrinsics != self._intrinsics:
                self._intrinsics = intrinsics
            self._info = info
        height, width = self._size
        if (self._intrinsics.height, self._intrinsics.width) != self._size:
            raise ConversionError(
                f"expected a camera_info for the image's {width}x{height} pixels, got one for "
                f"{self._intrinsics.width}x{self._intrinsics.height}"
            )
        return self._intrinsics

    def metres(self) -> NDArray[np.float32]:
        """The depth (H, W) float32, NaN where there is none.

        Raises:
            ConversionError: no depth came, or it cannot be read, or it has another size than the image.
        """
        if not self.has_depth() or self._depth is None:
            raise ConversionError(
                f"expected depth of the image's stamp within {COMPANION_WAIT_S} s, got none; is 'depth' "
                "remapped to depth that is registered to the images, and sync_slop large enough?"
            )
        if self._metres is None:
            if self._depth.header.frame_id != self._header.frame_id:
                self._throttle.warn(
                    "depth frame",
                    f"Expected depth registered to the image's frame '{self._header.frame_id}', got "
                    f"'{self._depth.header.frame_id}'; it is used as if it were",
                )
            metres = depth_to_metres(self._depth)
            height, width = self._size
            if metres.shape != self._size:
                raise ConversionError(
                    f"expected depth of the image's {width}x{height} pixels, got "
                    f"{metres.shape[1]}x{metres.shape[0]}; register depth to the image"
                )
            self._metres = metres
        return self._metres

    def sight(self) -> tuple[Sight, str]:
        """What the camera measured and from where, and the name of the frame that the pose is told in.

        Raises:
            ConversionError: depth, calibration or pose are missing or of no use.
        """
        intrinsics, metres = self.intrinsics(), self.metres()
        pose = self._taps.mailbox.companion(PoseStamped, nanoseconds(self._header), COMPANION_WAIT_S)
        if pose is None:
            raise ConversionError(
                f"expected a pose of the image's stamp within {COMPANION_WAIT_S} s, got none; is 'pose' "
                "remapped to poses of the camera's optical frame, and sync_slop large enough?"
            )
        return Sight(intrinsics, metres, pose_to_matrix(pose)), pose.header.frame_id
