"""Tells that points are made from images which the lens has bent."""

from ovs_ros.geometry.camera_model import CameraModel
from ovs_ros.geometry.points import Intrinsics
from ovs_ros.geometry.rectify import displacement
from ovs_ros.ros.conversions import ConversionError
from ovs_ros.ros.measurements import Measurements
from ovs_ros.ros.throttle import Throttle

LEAST_PIXELS = 1.0
"""Fewer are no worse than what calibrations are good for."""
AGAIN_S = 60.0


class DistortionWarning:
    """Looks at frames that points are made from. For one thread, the worker's."""

    def __init__(self, throttle: Throttle) -> None:
        self._throttle = throttle
        self._cameras: tuple[CameraModel, Intrinsics] | None = None
        self._pixels = 0.0

    def look(self, measurements: Measurements) -> None:
        """Warn if the frame's points are off by more than LEAST_PIXELS."""
        try:
            cameras = measurements.camera_model, measurements.intrinsics
        except ConversionError as error:
            self._throttle.warn(
                "distortion", f"Points are made as if the image were rectified: {error}", AGAIN_S
            )
            return
        if cameras != self._cameras:
            self._cameras, self._pixels = cameras, displacement(*cameras)
        if self._pixels > LEAST_PIXELS:
            self._throttle.warn(
                "distortion",
                f"The points are off by up to {self._pixels:.0f} pixels: the image is raw, and its "
                "camera_info has distortion. Set the parameter rectify to true, or take rectified images and "
                "depth, for example those of image_proc",
                AGAIN_S,
            )
