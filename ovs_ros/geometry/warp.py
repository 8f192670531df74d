"""Where the pixels of an image were in an earlier one."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

NOWHERE = np.float32(-1e5)
"""Added to a coordinate, it lies outside: for pixels whose point the earlier image does not show."""


@dataclass(frozen=True, eq=False)
class Warp:
    """For every pixel, which pixel of an earlier image shows the same point.

    Attributes:
        x, y: (H, W) float32 columns and rows in the earlier image, pixel centres at whole numbers. Outside
            of that image where it does not show the point.
    """

    x: NDArray[np.float32]
    y: NDArray[np.float32]

    def take(self, earlier: NDArray, outside: float) -> NDArray:
        """The values of the nearest earlier pixels.

        Args:
            earlier: (h, w) uint8, uint16 or float32, one value for each pixel of the earlier image.
            outside: the value of pixels whose point that image does not show.

        Returns:
            (H, W) of the same dtype, new.
        """
        return cv2.remap(
            earlier,
            self.x,
            self.y,
            cv2.INTER_NEAREST,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=float(outside),
        )
