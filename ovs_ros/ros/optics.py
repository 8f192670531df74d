"""What stands between the world and the pixels of a camera: its lens, its mounting, the robot's own body."""

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ovs_ros.geometry.rectify import Rectification, Rectifier
from ovs_ros.ros.throttle import Throttle
from ovs_ros.runtime.images import decode

SAME_ASPECT = 0.01
"""By which share the aspect ratios of a mask and an image may differ, which whole numbers of pixels need."""


class BodyMask:
    """The pixels of a camera's images that show the robot itself. For one thread, the worker's.

    Args:
        path: a PNG image; every pixel that is not black shows the robot. Empty: none does.
        throttle: takes warnings.

    Raises:
        ValueError: the file is no image.
        OSError: the file cannot be read.
    """

    def __init__(self, path: str, throttle: Throttle) -> None:
        self._path = path
        self._throttle = throttle
        self._mask = _read(Path(path).expanduser()) if path else None
        self._made_for: tuple[tuple[int, int], Rectification | None] | None = None
        self._hidden: NDArray[np.bool_] | None = None

    def hidden(self, size: tuple[int, int], rectification: Rectification | None) -> NDArray[np.bool_] | None:
        """The pixels (H, W) that show the robot, and those that a rectified image does not show.

        Args:
            size: (H, W) of the image.
            rectification: what the image has passed through, if anything.

        Returns:
            None where there are none.
        """
        if self._made_for != (size, rectification):
            mask = self._scaled(size)
            if rectification is None:
                hidden = None if mask is None else mask > 0
            else:
                hidden = (
                    rectification.outside if mask is None else rectification.warp.take(mask, outside=1) > 0
                )
            self._hidden = hidden if hidden is not None and hidden.any() else None
            self._made_for = size, rectification
        return self._hidden

    def _scaled(self, size: tuple[int, int]) -> NDArray[np.uint8] | None:
        if self._mask is None:
            return None
        (height, width), (rows, columns) = size, self._mask.shape
        if abs(width * rows / (height * columns) - 1) > SAME_ASPECT:
            self._throttle.warn(
                "body_mask",
                f"The robot's body is not masked: expected a mask of the image's {width}x{height} pixels, or "
                f"of the same aspect ratio, in {self._path}, got {columns}x{rows}",
            )
            return None
        return cv2.resize(self._mask, (width, height), interpolation=cv2.INTER_NEAREST)


@dataclass
class Optics:
    """The optics of one camera.

    Attributes:
        rectified: whether its images come as a pinhole camera would have taken them.
        rotation: by how many degrees its images have to be turned clockwise to stand upright: 0, 90, 180 or
            270.
        body_mask: the pixels that show the robot itself.
        rectifier: takes the lens out of images and depth.
    """

    rectified: bool
    rotation: int
    body_mask: BodyMask
    rectifier: Rectifier = field(default_factory=Rectifier)


def _read(path: Path) -> NDArray[np.uint8]:
    """An image file as (H, W) uint8, 0 where it is black or transparent."""
    pixels = decode(path.read_bytes(), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError(f"expected a PNG image of the robot's body in {path}, got a file that is none")
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    shown = (pixels[..., :3] > 0).any(axis=2)  # (H, W)
    if pixels.shape[2] == 4:
        shown &= pixels[..., 3] > 0
    return np.asarray(shown, np.uint8)
