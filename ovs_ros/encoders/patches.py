"""From any image to a ViT's input: scaled without distortion, padded to whole patches."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

IMAGENET_MEAN_RGB = (124, 116, 104)
"""What padding is filled with: black to a network that subtracts ImageNet's mean."""


@dataclass(frozen=True)
class PatchGrid:
    """How an image lies in a grid of patches.

    Attributes:
        rows, columns: the grid.
        height, width: the scaled image in pixels, at the top left; the rest of the grid is padding.
        patch: a patch's side in pixels.
    """

    rows: int
    columns: int
    height: int
    width: int
    patch: int

    @property
    def valid(self) -> tuple[float, float]:
        """The share (y, x) of the grid that the image covers."""
        return self.height / (self.rows * self.patch), self.width / (self.columns * self.patch)


def fit_grid(height: int, width: int, *, patches: int, patch: int) -> PatchGrid:
    """The largest grid of at most `patches` patches that holds an image of this shape.

    The image keeps its aspect ratio: the side that determines the scale fills whole patches, the other is
    padded to them.

    Raises:
        ValueError: an empty image.
    """
    if height < 1 or width < 1:
        raise ValueError(f"expected an image of at least 1 x 1 pixels, got {width} x {height}")
    ideal = math.sqrt(patches * height / width)  # rows, were they not whole

    def scale(rows: int) -> float:
        return min(rows * patch / height, patches // rows * patch / width)

    factor = max(map(scale, (min(max(1, math.floor(ideal)), patches), min(math.ceil(ideal), patches))))
    height, width = max(1, round(height * factor)), max(1, round(width * factor))
    return PatchGrid(math.ceil(height / patch), math.ceil(width / patch), height, width, patch)


def place(
    image: NDArray[np.uint8],
    grid: PatchGrid,
    out: NDArray[np.uint8] | None = None,
    linear_up_to: float = 1.0,
) -> NDArray[np.uint8]:
    """Scale an RGB image (H, W, 3) uint8 into its grid.

    Args:
        image: RGB.
        grid: from `fit_grid` with this image's height and width.
        out: (rows*patch, columns*patch, 3) uint8 to write into, whose padding is already filled.
        linear_up_to: how many times larger the image may be to be scaled by linear interpolation, which takes
            a fifth of the time; pixels of larger ones are averaged by area.

    Returns:
        (rows*patch, columns*patch, 3) uint8.
    """
    if out is None:
        out = blank(grid)
    shrinks = image.shape[0] > linear_up_to * grid.height
    cv2.resize(
        image,
        (grid.width, grid.height),
        dst=out[: grid.height, : grid.width],
        interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
    )
    return out


def blank(grid: PatchGrid) -> NDArray[np.uint8]:
    """A (rows*patch, columns*patch, 3) uint8 image of padding."""
    canvas = np.empty((grid.rows * grid.patch, grid.columns * grid.patch, 3), np.uint8)
    canvas[:] = IMAGENET_MEAN_RGB
    return canvas
