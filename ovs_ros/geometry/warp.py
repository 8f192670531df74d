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
        guess_x: (H, W) float32, x where the point should lie, whether that image shows it or not; None: x.
        mismatch: (h, w) uint8, on any grid over the image: by how many grey levels the earlier image differs
            there; None: not known.
    """

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    guess_x: NDArray[np.float32] | None = None
    mismatch: NDArray[np.uint8] | None = None

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

    def fill(self, earlier: NDArray) -> NDArray:
        """The values of the earlier pixels where the points are or should be, or of the nearest at the edge.

        Args:
            earlier: as in `take`.

        Returns:
            (H, W) of the same dtype, new.
        """
        x = self.x if self.guess_x is None else self.guess_x
        return cv2.remap(earlier, x, self.y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)

    def uncovered(self, size: tuple[int, int], step: int) -> NDArray[np.bool_]:
        """Which pixels, every step-th each way, the earlier image of `size` (H, W) does not show."""
        x, y = self.x[::step, ::step], self.y[::step, ::step]
        height, width = size
        return (x < -0.5) | (x >= width - 0.5) | (y < -0.5) | (y >= height - 0.5)
