"""From registered depth and a rectified camera's calibration to organised, labelled points.

The pinhole model as in REP 118 and depth_image_proc: x = (u - cx) z / fx, y = (v - cy) z / fy, in the optical
frame (x right, y down, z forward).
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

POINT = np.dtype(
    {
        "names": ["x", "y", "z", "rgb", "label", "confidence"],
        "formats": ["<f4", "<f4", "<f4", "<u4", "<u4", "u1"],
        "offsets": [0, 4, 8, 12, 16, 20],
        "itemsize": 24,
    }
)
"""One point, 24 bytes: metres, 0x00RRGGBB, label (PCL reads only 32 bits), confidence, three bytes unused."""
POINT_WITH_INTENSITY = np.dtype(
    {
        "names": ["x", "y", "z", "rgb", "label", "confidence", "intensity"],
        "formats": ["<f4", "<f4", "<f4", "<u4", "<u4", "u1", "<f4"],
        "offsets": [0, 4, 8, 12, 16, 20, 24],
        "itemsize": 28,
    }
)
"""A point of a lidar, 28 bytes: the same, and how strong the return was."""


_ROWS = 32
"""How many rows of points are written at a time."""


@dataclass(frozen=True)
class Intrinsics:
    """A rectified pinhole camera, in pixels.

    Raises:
        ValueError: a value is not finite, a focal length is not above 0, or the size is empty.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int

    def __post_init__(self) -> None:
        values = f"fx={self.fx:g}, fy={self.fy:g}, cx={self.cx:g}, cy={self.cy:g}"
        if not all(map(math.isfinite, (self.fx, self.fy, self.cx, self.cy))):
            raise ValueError(f"expected finite intrinsics, got {values}; calibrate the camera")
        if self.fx <= 0 or self.fy <= 0:
            raise ValueError(f"expected focal lengths above 0, got {values}; calibrate the camera")
        if self.width < 1 or self.height < 1:
            raise ValueError(f"expected the image's size, got {self.width}x{self.height}")


class PointProjector:
    """Fills points from depth. Keeps the rays of one camera between frames."""

    def __init__(self, intrinsics: Intrinsics) -> None:
        self.intrinsics = intrinsics
        columns = (np.arange(intrinsics.width) - intrinsics.cx) / intrinsics.fx
        rows = (np.arange(intrinsics.height) - intrinsics.cy) / intrinsics.fy
        self._x = columns.astype(np.float32)[None, :]  # (1, W)
        self._y = rows.astype(np.float32)[:, None]  # (H, 1)

    def fill(
        self,
        out: NDArray[np.void],
        depth: NDArray[np.float32],
        rgb: NDArray[np.uint8],
        labels: NDArray[np.uint8] | NDArray[np.uint16],
        confidence: NDArray[np.uint8],
    ) -> None:
        """Write one point for each pixel; x, y and z are NaN where the depth is.

        Args:
            out: (H, W) of dtype POINT.
            depth: (H, W) float32, metres along z, NaN where there is none.
            rgb: (H, W, 3) uint8.
            labels: (H, W) uint8 or uint16.
            confidence: (H, W) uint8.

        Raises:
            ValueError: one of the arrays has another size than the camera.
        """
        size = (self.intrinsics.height, self.intrinsics.width)
        arrays = {"out": out, "depth": depth, "rgb": rgb, "labels": labels, "confidence": confidence}
        for name, array in arrays.items():
            if array.shape[:2] != size:
                raise ValueError(
                    f"expected {name} of {size[1]}x{size[0]} pixels as the camera's calibration says, "
                    f"got {array.shape[1]}x{array.shape[0]}"
                )
        fields = out.view(np.float32).reshape(*size, POINT.itemsize // 4)  # (H, W, 6)
        # In one call: OpenCV's threads take longer to wake up than a few rows take.
        colors = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGRA).view(np.uint32)[..., 0]
        colors &= 0xFFFFFF
        # The rest some rows at a time, which stay in the processor's cache until they are whole points.
        for start in range(0, size[0], _ROWS):
            part = slice(start, start + _ROWS)
            z = depth[part]
            numbers = (colors[part], labels[part].astype(np.uint32), confidence[part].astype(np.uint32))
            planes = [z * self._x, z * self._y[part], z, *(plane.view(np.float32) for plane in numbers)]
            cv2.merge(planes, fields[part])
