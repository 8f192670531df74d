"""Depth, calibration and pose of a frame, as arrays."""

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, CompressedImage

from ovs_ros.geometry.camera_model import CameraModel
from ovs_ros.geometry.points import Intrinsics
from ovs_ros.geometry.rectify import Rectification
from ovs_ros.ros.compressed_depth import compressed_depth_to_metres
from ovs_ros.ros.conversions import (
    ConversionError,
    camera_model_from,
    depth_to_metres,
    intrinsics_from,
    pose_to_matrix,
    rectified_info,
)
from ovs_ros.ros.frames import Frame
from ovs_ros.ros.inputs import WAIT_S, Inputs
from ovs_ros.ros.optics import Optics
from ovs_ros.ros.throttle import Throttle
from ovs_ros.runtime.quoting import quoted


class Measurements:
    """Converts what belongs to the frame at work, each thing once. For one thread, the worker's.

    Args:
        frame: the one at work.
        size: of its image, (H, W).
        optics: of the camera that took it.
        rectify: whether image and depth are rectified if they did not come so.
        inputs: waits for depth and poses that come after their image.
        throttle: takes warnings about messages that are used although something is wrong.
    """

    def __init__(
        self,
        frame: Frame,
        size: tuple[int, int],
        optics: Optics,
        rectify: bool,
        inputs: Inputs,
        throttle: Throttle,
    ) -> None:
        self._frame = frame
        self._size = size
        self._optics = optics
        self._rectify = rectify and not optics.rectified
        self._inputs = inputs
        self._throttle = throttle

    def has_depth(self) -> bool:
        """Whether the frame has depth; waits for it a little."""
        return self._inputs.wait_for(self._frame, "depth", WAIT_S) is not None

    @property
    def camera_info(self) -> CameraInfo | None:
        """The calibration of the image that is segmented; None: none has come yet."""
        info = self._inputs.wait_for(self._frame, "camera_info", 0.0)
        return rectified_info(info) if info is not None and self._rectify else info

    @cached_property
    def intrinsics(self) -> Intrinsics:
        """The camera's calibration, as of rectified images.

        Raises:
            ConversionError: there is none, it cannot be used, or it is for images of another size.
        """
        return self._of_image(intrinsics_from(self._calibration()))

    @cached_property
    def camera_model(self) -> CameraModel:
        """The camera that the image is of when it is segmented.

        Raises:
            ConversionError: there is none, it cannot be used, or it is for images of another size.
        """
        pinhole = self._optics.rectified or self._rectify
        return CameraModel(self.intrinsics) if pinhole else self._camera_as_it_is()

    @cached_property
    def rectification(self) -> Rectification | None:
        """What rectifies the image, and the depth; None where nothing has to be done.

        Raises:
            ConversionError: there is no calibration, it cannot be used, or it is for images of another size.
        """
        if not self._rectify:
            return None
        return self._optics.rectifier.of(self._camera_as_it_is(), self.intrinsics)

    @cached_property
    def hidden(self) -> NDArray[np.bool_] | None:
        """The pixels (H, W) that show the robot, or nothing because the image is rectified; None: no pixel.

        Raises:
            ConversionError: as for `rectification`.
        """
        return self._optics.body_mask.hidden(self._size, self.rectification)

    def _camera_as_it_is(self) -> CameraModel:
        model = camera_model_from(self._calibration())
        self._of_image(model.intrinsics)
        return model

    def _calibration(self) -> CameraInfo:
        info = self._inputs.wait_for(self._frame, "camera_info", 0.0)
        if info is None:
            raise ConversionError("expected a camera_info, got none yet; remap 'camera_info' to the camera's")
        return info

    def _of_image(self, intrinsics: Intrinsics) -> Intrinsics:
        height, width = self._size
        if (intrinsics.height, intrinsics.width) != self._size:
            raise ConversionError(
                f"expected a camera_info for the image's {width}x{height} pixels, got one for "
                f"{intrinsics.width}x{intrinsics.height}; "
                "set binning and roi in the camera_info if the image is a part of the sensor's, or is reduced"
            )
        return intrinsics

    @cached_property
    def metres(self) -> NDArray[np.float32]:
        """The depth (H, W) float32, NaN where there is none.

        Raises:
            ConversionError: no depth came, or it cannot be read, or it has another size than the image.
        """
        depth, frame_id = self._required("depth"), self._frame.image.header.frame_id
        if depth.header.frame_id != frame_id:
            self._throttle.warn(
                "depth frame",
                f"Expected depth registered to the image's frame {quoted(frame_id)}, got "
                f"{quoted(depth.header.frame_id)}; it is used as if it were registered",
            )
        compressed = isinstance(depth, CompressedImage)
        metres = compressed_depth_to_metres(depth, self._size) if compressed else depth_to_metres(depth)
        height, width = self._size
        if metres.shape != self._size:
            raise ConversionError(
                f"expected depth of the image's {width}x{height} pixels, got "
                f"{metres.shape[1]}x{metres.shape[0]}; register depth to the image"
            )
        if self.rectification is not None:
            metres = self.rectification.depth(metres)
        if self.hidden is not None:
            metres[self.hidden] = np.nan
        return metres

    def pose(self) -> tuple[NDArray[np.float64], str]:
        """The rigid motion (4, 4) from the camera's frame to that of the pose's header, and the frame's name.

        Raises:
            ConversionError: no pose came, or it cannot be used.
        """
        pose = self._required("pose")
        return pose_to_matrix(pose), pose.header.frame_id

    def _required(self, name: str) -> Any:
        message = self._inputs.wait_for(self._frame, name, WAIT_S)
        if message is None:
            raise ConversionError(
                f"expected {name} whose stamp is within {self._inputs.slop:g} s of the image's, got none; "
                f"remap '{name}', or raise sync_slop"
            )
        return message
