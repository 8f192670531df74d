"""The image side of the embedded model: one convolutional network."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ovs_ros.encoders.features import Features
from ovs_ros.encoders.heads import ConvexHead
from ovs_ros.encoders.patches import PatchGrid, blank, fit_grid, place
from ovs_ros.runtime.arrays import read_arrays
from ovs_ros.runtime.files import file_digest
from ovs_ros.runtime.onnx import open_session
from ovs_ros.runtime.stage_clock import StageClock

CELL, PATCH = 32, 8
"""Pixels of a side that images are padded to, and from one embedding to the next."""
PATCHES_A_CELL = 4
"""How many patch tokens, of 16 x 16 pixels each, a cell has."""
LINEAR_UP_TO = 1.5
"""See `place`: for 640 x 480 pixels 1.5 ms less, and 0.04 points of mIoU less on 60 images of NYUv2 `val`."""
NAME_KEY = "name"
"""The network's name in the metadata of its file."""
_OUTPUTS = ["image", "patches", "pooled", "upsampling", "details", "hidden"]


class PyramidImageEncoder:
    """EfficientNet-Lite with a decoder; see `ResizableEncoder` for the contract.

    A cell's side has 8 logits, 4 embeddings and 2 of `Features.patch_tokens`: these are the means of 2x2
    embeddings, which is as fine as selection and validation need.

    Not safe to be used by two threads at once: the input image is kept between frames.

    Args:
        models: the folder with the model's files.
        cells: the most cells of 32 x 32 pixels an image is cut into; time and detail grow with it.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the network is another one, or a file is damaged.
    """

    device = "cpu"

    def __init__(self, models: Path, *, cells: int) -> None:
        path = models / "image_encoder.onnx"
        self._session = open_session(path)
        given = [
            [one.name for one in part] for part in (self._session.get_inputs(), self._session.get_outputs())
        ]
        if given != [["pixels"], _OUTPUTS]:
            raise ValueError(
                f"expected the input pixels and the outputs {', '.join(_OUTPUTS)} in {path}, got "
                f"{', '.join(given[0])} and {', '.join(given[1])}; write it with 'ovs train embedded'"
            )
        words = read_word_arrays(models, ("details", "logit_scale"))
        self._detail_words: NDArray[np.float32] = words["details"]  # (D, F)
        self.logit_scale = float(words["logit_scale"])
        self._cells = cells
        self._canvas: tuple[PatchGrid, NDArray[np.uint8]] | None = None
        self.dim = self._detail_words.shape[0]
        network = self._session.get_modelmeta().custom_metadata_map.get(NAME_KEY, "pyramid")
        self.name = f"{network}-{file_digest(path)[:8]}@{cells}"

    @property
    def patches(self) -> int:
        """How many patch tokens an image has at most: four for each cell."""
        return self._cells * PATCHES_A_CELL

    def resize(self, patches: int) -> None:
        """See `ResizableEncoder.resize`; rounded down to whole cells."""
        self._cells = max(1, patches // PATCHES_A_CELL)

    def encode(self, image: NDArray[np.uint8]) -> Features:
        """Encode an RGB image (H, W, 3) uint8, scaled into its grid of cells without distortion."""
        clock = StageClock()
        grid = fit_grid(*image.shape[:2], patches=self._cells, patch=CELL)
        if self._canvas is None or self._canvas[0] != grid:
            self._canvas = grid, blank(grid)
        pixels = place(image, grid, self._canvas[1], LINEAR_UP_TO)
        clock.stage("prepare")
        class_token, patches, pooled, weights, details, hidden = self._session.run(
            _OUTPUTS, {"pixels": pixels}
        )
        clock.stage("encode")
        fine = CELL // PATCH
        shape = grid.rows * fine // 2, grid.columns * fine // 2
        embeddings = patches.reshape(grid.rows * fine, grid.columns * fine, -1)
        return Features(
            class_token=class_token[0],
            patch_tokens=pooled.reshape(*shape, -1),
            head=ConvexHead(embeddings, weights, details, self._detail_words, self.logit_scale),
            valid=grid.valid,
            logit_scale=self.logit_scale,
            hidden=hidden.reshape(*shape, -1),
            stages_ms=clock.stages_ms,
        )


def read_word_arrays(models: Path, names: Iterable[str]) -> dict[str, NDArray[np.float32]]:
    """Some arrays of the file that joins images and words in a model's folder.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or another file.
    """
    remedy = "write it with 'ovs train embedded', or reinstall ovs_ros"
    return read_arrays(models / "text_head.npz", names, "the embedded model's words' side", remedy)
