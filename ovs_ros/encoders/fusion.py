"""Weighted fusion with a second image encoder that keeps details, after LMSeg (arXiv 2412.00364).

F = w F_1 + (1 - w) Proj(Resize(F_2)): F_1 lies in the space shared with words, F_2 is any encoder's map. The
paper says that w is learned; that it is one number, that Proj is one linear layer, and that F is brought back
to unit norm are readings. `training/recipes/fusion.py` trains it.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ovs_ros.encoders.feature_map import FeatureMapEncoder, MapInput
from ovs_ros.encoders.features import Features, ImageEncoder
from ovs_ros.geometry.resample import resample_bilinear
from ovs_ros.runtime.arrays import read_arrays, write_arrays
from ovs_ros.runtime.stage_clock import StageClock

Array = NDArray[np.float32]
OFF = "off"


@dataclass(frozen=True, eq=False)
class FusionWeights:
    """What fusion learned, and the second encoder that it was learned with.

    Attributes:
        weight: w in [0, 1]: how much of the first encoder stays.
        projection: (C, D) float32; bias: (D,) float32: Proj.
        wanted: how images were prepared for the second encoder.
        digest: of the second encoder's file.

    Raises:
        ValueError: shapes that do not fit together, or values out of range.
    """

    weight: float
    projection: Array
    bias: Array
    wanted: MapInput
    digest: str

    def __post_init__(self) -> None:
        if self.projection.ndim != 2 or self.bias.shape != self.projection.shape[1:]:
            raise ValueError(
                "expected shapes (C, D) and (D,) for the fusion's projection and bias, got "
                f"{self.projection.shape} and {self.bias.shape}; train them with 'ovs train fusion'"
            )
        finite = np.isfinite(self.projection).all() and np.isfinite(self.bias).all()
        if not finite or not 0 <= self.weight <= 1:
            raise ValueError(
                "expected finite fusion weights with w from 0 to 1, got others; train them again"
            )

    def save(self, path: Path) -> None:
        """Write them to an npz file."""
        arrays = {
            "weight": np.float32(self.weight),
            "projection": self.projection,
            "bias": self.bias,
            "size": np.array(self.wanted.size or (0, 0)),
            "mean": np.array(self.wanted.mean),
            "std": np.array(self.wanted.std),
            "output": np.array(self.wanted.output or ""),
            "digest": np.array(self.digest),
        }
        write_arrays(path, arrays)

    @classmethod
    def load(cls, path: Path) -> "FusionWeights":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no such file.
        """
        if not path.is_file():
            raise FileNotFoundError(
                f"expected fusion weights at {path}, found none; train them with 'ovs train fusion'"
            )
        names = ("size", "mean", "std", "output", "projection", "bias", "weight", "digest")
        file = read_arrays(path, names, "a file of 'ovs train fusion'", "train it again")
        try:
            size, mean, std = (tuple(file[name].tolist()) for name in ("size", "mean", "std"))
            wanted = MapInput(size if all(size) else None, mean, std, str(file["output"]) or None)
            projection, bias = (file[name].astype(np.float32) for name in ("projection", "bias"))
            return cls(float(file["weight"]), projection, bias, wanted, str(file["digest"]))
        except (TypeError, ValueError) as error:
            raise ValueError(f"expected fusion weights in {path}, got others: {error}") from error


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
    learned = FusionWeights.load(Path(weights).expanduser())
    return FusedImageEncoder(first, FeatureMapEncoder(Path(second).expanduser(), learned.wanted), learned)
