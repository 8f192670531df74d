"""What was measured with the frame at work: depth, calibration and pose, as arrays."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo

from ovs_ros.geometry.points import Intrinsics
from ovs_ros.geometry.reprojection import Sight
from ovs_ros.ros.conversions import ConversionError, depth_to_metres, intrinsics_from, pose_to_matrix
from ovs_ros.ros.inputs import WAIT_S, Frame, Inputs
from ovs_ros.ros.throttle import Throttle


class Measurements:
    """Converts what belongs to a frame, each thing once a frame. For one thread, the worker's.

    Args:
        inputs: waits for depth and poses that come after their image.
        throttle: takes warnings about what is used nevertheless.
    """

    def __init__(self, inputs: Inputs, throttle: Throttle) -> None:
        self._inputs = inputs
        self._throttle = throttle
        self._frame: Frame | None = None
        self._size = (0, 0)
        self._metres: NDArray[np.float32] | None = None
        self._info: CameraInfo | None = None
        self._intrinsics: Intrinsics | None = None

    def start(self, frame: Frame, size: tuple[int, int]) -> None:
        """Turn to a frame whose image has this size (H, W)."""
        self._frame, self._size = frame, size
        self._metres = None

    def has_depth(self) -> bool:
        """Whether the frame has depth; waits for it a little."""
        return self._awaited("depth") is not None

    def intrinsics(self) -> Intrinsics:
        """The camera's calibration. The same object as before while that does not change.

        Raises:
            ConversionError: there is none, it is of no use, or it is for images of another size.
        """
        info = self._awaited("camera_info")
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
                f"{self._intrinsics.width}x{self._intrinsics.height}; "
                "set binning and roi in the camera_info if the image is a part of the sensor's, or is reduced"
            )
        return self._intrinsics

    def metres(self) -> NDArray[np.float32]:
        """The depth (H, W) float32, NaN where there is none.

        Raises:
            ConversionError: no depth came, or it cannot be read, or it has another size than the image.
        """
        if self._metres is None:
            depth, frame_id = self._required("depth"), self._current().image.header.frame_id
            if depth.header.frame_id != frame_id:
                self._throttle.warn(
                    "depth frame",
                    f"Expected depth registered to the image's frame '{frame_id}', got "
                    f"'{depth.header.frame_id}'; it is used as if it were registered",
                )
            metres = depth_to_metres(depth)
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
        intrinsics, metres, pose = self.intrinsics(), self.metres(), self._required("pose")
        return Sight(intrinsics, metres, pose_to_matrix(pose)), pose.header.frame_id

    def _current(self) -> Frame:
        assert self._frame is not None, "start() comes first"
        return self._frame

    def _awaited(self, name: str) -> Any:
        frame = self._current()
        return self._inputs.wait_for(frame, name, 0.0 if name == "camera_info" else WAIT_S)

    def _required(self, name: str) -> Any:
        message = self._awaited(name)
        if message is None:
            raise ConversionError(
                f"expected {name} whose stamp is within {self._inputs.slop:g} s of the image's, got none; "
                f"remap '{name}', or raise sync_slop"
            )
        return message
