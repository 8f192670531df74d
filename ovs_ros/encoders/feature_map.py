"""Any image encoder in an ONNX file as a map of features, for fusion with the encoder that knows words."""

from dataclasses import dataclass
from math import inf, isqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovs_ros.encoders.patches import PatchGrid, place
from ovs_ros.runtime.files import file_digest
from ovs_ros.runtime.onnx import FAILURES, open_session

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
_MOST_PREFIX_TOKENS = 16
"""How many class and register tokens may stand before the patches' tokens."""


@dataclass(frozen=True)
class MapInput:
    """What an encoder wants to be given.

    Attributes:
        size: (H, W) in pixels; None: the size that the network fixes.
        mean, std: RGB in 0 to 255, subtracted and divided by where the network takes floats; ImageNet's by
            default, which SAM and DINOv2 want too. A network that takes uint8 gets pixels as they are.
        output: which output is the map; None: the only one.

    Raises:
        ValueError: a size or a number that cannot be.
    """

    size: tuple[int, int] | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    output: str | None = None

    def __post_init__(self) -> None:
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"expected a size (H, W) of positive pixels, got {self.size}")
        if not all(0 <= value <= 255 for value in self.mean) or not all(0 < s < inf for s in self.std):
            raise ValueError(
                f"expected a mean of 0 to 255 and a positive std for each of R, G and B, got {self.mean} and "
                f"{self.std}; they are of pixels from 0 to 255"
            )


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """Features on a grid.

    Attributes:
        values: (h, w, C) float32.
        valid: the share (y, x) of the grid that the image covers from the top left corner.
    """

    values: NDArray[np.float32]
    valid: tuple[float, float]


class FeatureMapEncoder:
    """An ONNX image encoder with one input, run by ONNX Runtime on the CPU.

    The input is (1, 3, H, W) or (1, H, W, 3), float32 or uint8; the map is (1, C, h, w), (1, h, w, C), or
    tokens (1, T, C) of a grid with the input's proportions, class and register tokens first. SAM's encoders,
    (1, 3, 1024, 1024) to (1, 256, 64, 64), are of this kind. The image is scaled without distortion and
    laid at the top left.

    Not safe to be used by two threads at once: the input is kept between frames.

    Attributes:
        name: the file's name without its ending.
        digest: of the file's content.
        channels: C.
        wanted: what it was opened with.

    Args:
        model: the ONNX file; it runs once on an empty image, to see what it gives.
        wanted: its input's size and normalisation, and the output that is the map.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no ONNX model, or its inputs or outputs are of another kind.
    """

    def __init__(self, model: Path, wanted: MapInput | None = None) -> None:
        if not model.is_file():
            raise FileNotFoundError(
                f"expected the second encoder's ONNX file at {model}, found none; check the path"
            )
        self.wanted = wanted = wanted if wanted is not None else MapInput()
        self._model, self.name, self.digest = model, model.stem, file_digest(model)
        try:
            self._session = open_session(model)
        except FAILURES as error:
            raise ValueError(
                f"expected an ONNX model that runs in {model}, got: {error}; check it"
            ) from error
        self._open_input(wanted)
        self._output = self._find_output(wanted.output)
        height, width = self._size
        self._canvas = np.empty((height, width, 3), np.uint8)
        self._filled: tuple[int, int] | None = None
        shape = (1, 3, height, width) if self._channels_first else (1, height, width, 3)
        self._floats = np.empty(shape, np.float32) if self._takes_floats else None
        self._mean = np.array(wanted.mean, np.float32)
        self._scale = 1 / np.array(wanted.std, np.float32)
        self._padding = np.rint(self._mean if self._takes_floats else IMAGENET_MEAN).astype(np.uint8)
        try:
            raw = self._raw(self._prepare(np.zeros((height, width, 3), np.uint8))[0])
        except FAILURES as error:
            raise ValueError(
                f"expected {model} to take an input of {height}x{width}, got: {error}; give another size"
            ) from error
        self._find_layout(raw)

    def _prepare(self, image: NDArray[np.uint8]) -> tuple[NDArray[Any], tuple[float, float]]:
        """The network's input, and the share (y, x) of it that the image covers from the top left corner."""
        height, width = image.shape[:2]
        rows, columns = self._size
        scale = min(rows / height, columns / width)
        covered = max(1, round(height * scale)), max(1, round(width * scale))
        lie = PatchGrid(rows=rows, columns=columns, height=covered[0], width=covered[1], patch=1)
        if self._filled != covered:
            self._canvas[:] = self._padding
            self._filled = covered
        place(image, lie, self._canvas)
        if self._floats is None:
            pixels = self._canvas.transpose(2, 0, 1) if self._channels_first else self._canvas
            return np.ascontiguousarray(pixels)[None], lie.valid
        last = self._floats[0].transpose(1, 2, 0) if self._channels_first else self._floats[0]  # (H, W, 3)
        np.subtract(self._canvas, self._mean, out=last)
        last *= self._scale
        return self._floats, lie.valid

    def encode(self, image: NDArray[np.uint8]) -> FeatureMap:
        """Scale, pad and normalise an RGB image (H, W, 3) uint8 of any size, and encode it."""
        pixels, valid = self._prepare(image)
        raw = self._raw(pixels)
        if raw.ndim == 4:
            values = raw[0].transpose(1, 2, 0) if self._map_first else raw[0]
        else:
            values = raw[0, self._prefix :].reshape(*self._grid, -1)
        return FeatureMap(np.ascontiguousarray(values, np.float32), valid)

    def _raw(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        return self._session.run([self._output], {self._input: pixels})[0]

    def _open_input(self, wanted: MapInput) -> None:
        inputs = self._session.get_inputs()
        shape = inputs[0].shape
        fits = len(inputs) == 1 and inputs[0].type in ("tensor(float)", "tensor(uint8)") and len(shape) == 4
        # An open side is None or has a name.
        if not fits or 3 not in (shape[1], shape[3]) or isinstance(shape[0], int) and shape[0] != 1:
            described = ", ".join(f"{i.name}: {i.type} {i.shape}" for i in inputs)
            raise ValueError(
                f"expected one input (1, 3, H, W) or (1, H, W, 3), float or uint8 in {self._model}, got "
                f"{described}; export the encoder alone, for one RGB image"
            )
        self._input = inputs[0].name
        self._takes_floats = inputs[0].type == "tensor(float)"
        self._channels_first = shape[1] == 3
        fixed = shape[2:] if self._channels_first else shape[1:3]
        given = wanted.size if wanted.size is not None else fixed
        if not all(isinstance(side, int) and side > 0 for side in given):
            raise ValueError(f"expected a size (H, W) for {self._model}, which leaves it open; give one")
        if any(isinstance(side, int) and side != want for side, want in zip(fixed, given, strict=True)):
            raise ValueError(
                f"expected the size {fixed[0]}x{fixed[1]} that {self._model} fixes, got "
                f"{given[0]}x{given[1]}; leave the size out"
            )
        self._size = int(given[0]), int(given[1])

    def _find_output(self, asked: str | None) -> str:
        names = [output.name for output in self._session.get_outputs()]
        found = names[0] if asked is None and len(names) == 1 else asked
        if found not in names:
            raise ValueError(
                f"expected the name of the map among the outputs {', '.join(names)} of {self._model}, "
                f"got {asked or 'none'}; name one"
            )
        return str(found)

    def _find_layout(self, raw: NDArray[np.float32]) -> None:
        """Tell (1, C, h, w), (1, h, w, C) and tokens apart by which grid has the input's proportions."""
        height, width = self._size
        self._map_first, self._prefix, self._grid = False, 0, (0, 0)
        if raw.ndim == 4 and raw.shape[0] == 1:
            for first, (rows, columns) in ((True, raw.shape[2:]), (False, raw.shape[1:3])):
                if abs(rows * width / height - columns) < 1:
                    self._map_first = first
                    self.channels = int(raw.shape[1] if first else raw.shape[3])
                    return
        if raw.ndim == 3 and raw.shape[0] == 1:
            for prefix in range(min(_MOST_PREFIX_TOKENS + 1, raw.shape[1])):
                tokens = raw.shape[1] - prefix
                rows = isqrt(tokens * height // width)
                if rows and tokens % rows == 0 and rows * width == tokens // rows * height:
                    self._prefix, self._grid = prefix, (rows, tokens // rows)
                    self.channels = int(raw.shape[2])
                    return
        raise ValueError(
            f"expected a map (1, C, h, w), (1, h, w, C) or tokens (1, T, C) with the proportions of an input "
            f"of {height}x{width} as output '{self._output}' of {self._model}, got {raw.shape}; "
            "name another output or cut the network before it pools"
        )
