"""Images and depth as a pinhole camera would have taken them."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from ovs_ros.geometry.camera_model import CameraModel
from ovs_ros.geometry.points import Intrinsics
from ovs_ros.geometry.warp import NOWHERE, Warp


@dataclass(frozen=True, eq=False)
class Rectification:
    """Takes the distortion of one camera out of its images.

    Attributes:
        camera: the one that took the images.
        target: the pinhole camera of the results.
        warp: where its pixels lie in the image, outside of it where the camera did not see them.
        outside: (H, W) bool, the pixels that the camera did not see.
    """

    camera: CameraModel
    target: Intrinsics
    warp: Warp
    outside: NDArray[np.bool_]

    @classmethod
    def of(cls, camera: CameraModel, target: Intrinsics) -> "Rectification":
        """Of a camera, for a pinhole camera of the same or another size."""
        x, y = _sources(camera, target)
        inside = _inside(x, y, camera.intrinsics)
        x[~inside] = y[~inside] = NOWHERE
        return cls(camera, target, Warp(x, y), ~inside)

    def image(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """An image (h, w, 3) uint8 of the camera as (H, W, 3), interpolated; black where it saw nothing."""
        return cv2.remap(pixels, *self._places, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)

    @cached_property
    def _places(self) -> tuple[NDArray[np.int16], NDArray[np.uint16]]:
        """The warp in the form that OpenCV interpolates from at twice the speed."""
        return cv2.convertMaps(self.warp.x, self.warp.y, cv2.CV_16SC2)

    def depth(self, metres: NDArray[np.float32]) -> NDArray[np.float32]:
        """Depth (h, w) float32 of the camera as (H, W), the nearest pixel's; NaN where it saw nothing."""
        return self.warp.take(metres, np.nan)


class Rectifier:
    """Keeps the rectification of one camera while neither of its two cameras changes."""

    def __init__(self) -> None:
        self._last: Rectification | None = None

    def of(self, camera: CameraModel, target: Intrinsics) -> Rectification | None:
        """The rectification of a camera for a pinhole camera; None where the two are the same."""
        if not camera.distorts and camera.intrinsics == target:
            return None
        if self._last is None or (self._last.camera, self._last.target) != (camera, target):
            self._last = Rectification.of(camera, target)
        return self._last


def displacement(camera: CameraModel, target: Intrinsics, step: int = 8) -> float:
    """The most pixels by which a camera's image differs from a pinhole camera's, at every `step` pixels."""
    x, y = _sources(camera, target, step)
    inside = _inside(x, y, camera.intrinsics)
    columns = np.arange(0, target.width, step, dtype=np.float32)
    rows = np.arange(0, target.height, step, dtype=np.float32)[:, None]
    return float(np.hypot(x - columns, y - rows).max(initial=0.0, where=inside))


def _sources(
    camera: CameraModel, target: Intrinsics, step: int = 1
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Where every step-th pixel of the target lies in the camera's image: (h, w) columns and rows, or NaN."""
    columns = (np.arange(0, target.width, step) - target.cx) / target.fx
    rows = (np.arange(0, target.height, step) - target.cy) / target.fy
    rays = np.ones((len(rows), len(columns), 3), np.float32)
    rays[..., 0], rays[..., 1] = columns, rows[:, None]
    found = camera.project(rays.reshape(-1, 3)).reshape(rays.shape[0], rays.shape[1], 2)
    return np.ascontiguousarray(found[..., 0]), np.ascontiguousarray(found[..., 1])


def _inside(x: NDArray[np.float32], y: NDArray[np.float32], camera: Intrinsics) -> NDArray[np.bool_]:
    """Which places lie on a pixel; NaN does not."""
    return (x >= -0.5) & (x < camera.width - 0.5) & (y >= -0.5) & (y < camera.height - 0.5)
