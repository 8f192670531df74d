"""DINOv2 ViT-S/14, the embedded model's image encoder."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ovs_ros.geometry.resample import resample_grid
from ovs_ros.runtime.onnx import open_session


class DinoEncoder:
    """DINOv2 ViT-S/14, run by ONNX Runtime.

    Attributes:
        patch: a patch's side in pixels.
        width: numbers a token: the layers 3, 6, 9 and 12 side by side.

    Args:
        model: the ONNX file.
        positions: (37, 37, 384) float32, the position table.

    Raises:
        FileNotFoundError: there is no such model.
    """

    patch = 14
    width = 4 * 384

    def __init__(self, model: Path, positions: NDArray[np.float32]) -> None:
        self._session = open_session(model)
        self._table = positions
        self._positions: dict[tuple[int, int], NDArray[np.float32]] = {}

    def tokens(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode RGB (h*14, w*14, 3) uint8: tokens (1 + h*w, 1536) float32, the class token first."""
        grid = image.shape[0] // self.patch, image.shape[1] // self.patch
        positions = self._positions.get(grid)
        if positions is None:
            positions = resample_grid(self._table, *grid).reshape(grid[0] * grid[1], -1)
            self._positions[grid] = positions
        tokens: NDArray[np.float32] = self._session.run(None, {"image": image, "positions": positions})[0]
        return tokens
