"""Weighted fusion with a second image encoder that keeps details, after LMSeg (arXiv 2412.00364).

F = w F_1 + (1 - w) Proj(Resize(F_2)): F_1 lies in the space shared with words, F_2 is any encoder's map. That
w is learned is given; that it is one sigmoid for all channels or one for each, that Proj is one linear layer,
and that F is brought back to unit norm are readings. `training/recipes/fusion.py` trains it.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from ovs_ros.encoders.feature_map import FeatureMapEncoder, MapInput
from ovs_ros.encoders.features import Features, ImageEncoder
from ovs_ros.geometry.resample import resample_bilinear
from ovs_ros.runtime.stage_clock import StageClock

Array = NDArray[np.float32]
OFF = "off"
_ARRAYS = ("weight", "projection", "bias", "size", "mean", "std", "output", "digest")


@dataclass(frozen=True, eq=False)
class FusionWeights:
    """What fusion learned, and the second encoder that it was learned with.

    Attributes:
        weight: () or (D,) float32 in [0, 1], w: how much of the first encoder stays.
        projection: (C, D) float32; bias: (D,) float32: Proj.
        wanted: how images were prepared for the second encoder.
        digest: of the second encoder's file.

    Raises:
        ValueError: shapes that do not fit together, or values out of range.
    """

    weight: Array
    projection: Array
    bias: Array
    wanted: MapInput
    digest: str

    def __post_init__(self) -> None:
        shapes = self.weight.shape, self.projection.shape, self.bias.shape
        fits = self.projection.ndim == 2 and self.bias.shape == self.projection.shape[1:]
        if not fits or self.weight.shape not in ((), self.bias.shape):
            raise ValueError(
                "expected shapes () or (D,), (C, D) and (D,) for the fusion's weight, projection and bias, "
                f"got {shapes[0]}, {shapes[1]} and {shapes[2]}; train them with 'ovs train fusion'"
            )
        finite = all(np.isfinite(array).all() for array in (self.weight, self.projection, self.bias))
        if not finite or self.weight.min() < 0 or self.weight.max() > 1:
            raise ValueError(
                "expected finite fusion weights with w from 0 to 1, got others; train them again"
            )

    def save(self, path: Path) -> None:
        """Write them to an npz file."""
        with path.open("wb") as file:  # np.savez would change the name of a path without its ending.
            np.savez(
                file,
                weight=self.weight,
                projection=self.projection,
                bias=self.bias,
                size=np.array(self.wanted.size or (0, 0)),
                mean=np.array(self.wanted.mean),
                std=np.array(self.wanted.std),
                output=np.array(self.wanted.output or ""),
                digest=np.array(self.digest),
            )

    @classmethod
    def load(cls, path: Path) -> "FusionWeights":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no such file, or arrays are missing or of other shapes.
        """
        if not path.is_file():
            raise FileNotFoundError(
                f"expected fusion weights at {path}, found none; train them with 'ovs train fusion'"
            )
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except (BadZipFile, ValueError, EOFError, AttributeError) as error:
            raise ValueError(
                f"expected an npz file of fusion weights in {path}, got something else"
            ) from error
        if set(arrays) != set(_ARRAYS):
            missing, foreign = sorted(set(_ARRAYS) - set(arrays)), sorted(set(arrays) - set(_ARRAYS))
            raise ValueError(
                f"expected the arrays {', '.join(_ARRAYS)} in {path}, got a file without {missing} and "
                f"with {foreign} beside; train the weights with 'ovs train fusion'"
            )
        size = tuple(int(side) for side in arrays["size"])
        wanted = MapInput(
            (size[0], size[1]) if all(size) else None,
            _rgb(arrays["mean"]),
            _rgb(arrays["std"]),
            str(arrays["output"]) or None,
        )
        weight, projection, bias = (arrays[n].astype(np.float32) for n in ("weight", "projection", "bias"))
        return cls(weight, projection, bias, wanted, str(arrays["digest"]))


class FusedImageEncoder:
    """The first encoder with its patches fused with the second's map; see `ImageEncoder` for the contract.

    The whole image's embedding stays the first's. The second network adds its whole time to each frame.

    Args:
        first: lies in the space shared with words.
        second: any encoder's map.
        weights: learned for these two.

    Raises:
        ValueError: the weights belong to other encoders.
    """

    def __init__(self, first: ImageEncoder, second: FeatureMapEncoder, weights: FusionWeights) -> None:
        if weights.projection.shape != (second.channels, first.dim):
            raise ValueError(
                f"expected fusion weights from {second.channels} channels of {second.name} to {first.dim} "
                f"dimensions of {first.name}, got {weights.projection.shape}; train them for this pair"
            )
        if weights.digest != second.digest:
            raise ValueError(
                f"expected the second encoder that the fusion was trained with ({weights.digest[:12]}…), got "
                f"{second.name} ({second.digest[:12]}…); give that file, or train the fusion for this one"
            )
        self._first, self._second = first, second
        self._weight = weights.weight
        self._projection = weights.projection * (1 - weights.weight)
        self._bias = weights.bias * (1 - weights.weight)
        self.dim, self.logit_scale, self.device = first.dim, first.logit_scale, first.device
        self.name = f"{first.name}&{second.name}"
        self.fallbacks: list[str] = getattr(first, "fallbacks", [])

    def encode(self, image: NDArray[np.uint8]) -> Features:
        """Encode an RGB image (H, W, 3) uint8 with both; fuse the second's map into the first's patches."""
        first = self._first.encode(image)
        clock = StageClock()
        second = self._second.encode(image)
        clock.stage("encode")
        clock.add(first.stages_ms)

        def fuse(embeddings: Array, valid: tuple[float, float]) -> Array:
            height, width, _ = embeddings.shape
            resized = resample_bilinear(second.values, (height, width), second.valid, valid)  # (h, w, C)
            mixed = resized @ self._projection  # (h, w, D)
            mixed += self._bias
            mixed += self._weight * embeddings
            mixed /= np.linalg.norm(mixed, axis=-1, keepdims=True)
            return mixed

        return replace(
            first,
            patch_tokens=fuse(first.patch_tokens, first.valid),
            head=first.head.changed(fuse, first.valid),
            stages_ms=clock.stages_ms,
        )


def with_second(first: ImageEncoder, second: str | Path, weights: str | Path) -> ImageEncoder:
    """The first encoder fused with a second one as it was trained to be; the first alone where none is named.

    Args:
        first: lies in the space shared with words.
        second: the second encoder's ONNX file; 'off' for none.
        weights: what `ovs train fusion` wrote for it; 'off' for none.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is of another kind, one is named without the other, or they do not belong together.
    """
    named = [str(path) != OFF for path in (second, weights)]
    if not any(named):
        return first
    if not all(named):
        raise ValueError(
            "expected a second encoder and its fusion weights, got the "
            f"{'weights' if named[1] else 'encoder'} alone; name both or neither"
        )
    second, weights = Path(second).expanduser(), Path(weights).expanduser()
    learned = FusionWeights.load(weights)
    return FusedImageEncoder(first, FeatureMapEncoder(second, learned.wanted), learned)


def _rgb(values: NDArray[np.generic]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
