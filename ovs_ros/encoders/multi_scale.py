"""The same encoder at several scales: what is too small for one is too large for another."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ovs_ros.encoders.protocols import DenseFeatures, ImageEncoder
from ovs_ros.encoders.upsampling import Change, Extent, Upsampling

Array = NDArray[np.float32]


class MultiScaleImageEncoder:
    """Runs encoders that share one space, coarse to fine, and takes the mean of their cosines.

    The patches and the grid are those of the last encoder. See `ImageEncoder` for the methods' contract.

    Args:
        encoders: at least one, the finest last.

    Raises:
        ValueError: no encoder, or encoders of different spaces.
    """

    def __init__(self, encoders: Sequence[ImageEncoder]) -> None:
        if not encoders or len({encoder.dim for encoder in encoders}) > 1:
            raise ValueError(f"expected encoders of one space, got dimensions {[e.dim for e in encoders]}")
        self._encoders = tuple(encoders)
        finest = self._encoders[-1]
        self.dim, self.logit_scale, self.device = finest.dim, finest.logit_scale, finest.device
        self.name = "+".join(encoder.name for encoder in self._encoders)

    def prepare(self, image: NDArray[np.uint8]) -> list[object]:
        """Prepare an RGB image (H, W, 3) uint8 for every scale."""
        return [encoder.prepare(image) for encoder in self._encoders]

    def backbone(self, prepared: list[object]) -> list[object]:
        """Run the network at every scale."""
        return [encoder.backbone(part) for encoder, part in zip(self._encoders, prepared, strict=True)]

    def project(self, features: list[object]) -> DenseFeatures:
        """Bring all scales into the shared space."""
        scales = [encoder.project(part) for encoder, part in zip(self._encoders, features, strict=True)]
        image = np.mean([scale.image for scale in scales], axis=0)
        finest = scales[-1]
        return DenseFeatures(
            image=image / np.linalg.norm(image),
            patches=finest.patches,
            upsampling=MeanUpsampling(
                tuple(scale.upsampling for scale in scales), tuple(scale.extent for scale in scales)
            ),
            extent=finest.extent,
        )


@dataclass(frozen=True)
class MeanUpsampling:
    """The mean of several scales' cosines on the last one's grid.

    Attributes:
        scales: the finest last.
        extents: the share (y, x) of each scale's grid that the image covers.
    """

    scales: tuple[Upsampling, ...]
    extents: tuple[tuple[float, float], ...]

    @property
    def grid(self) -> tuple[int, int]:
        """See `Upsampling`."""
        return self.scales[-1].grid

    def cosines(self, words: Array) -> Array:
        """See `Upsampling`."""
        total = self.scales[-1].cosines(words)  # (ph, pw, M)
        for scale, extent in zip(self.scales[:-1], self.extents[:-1], strict=True):
            coarse = scale.cosines(words)  # (h, w, M)
            to_rows, to_columns = (
                bilinear_matrix(coarse.shape[axis], extent[axis], total.shape[axis], self.extents[-1][axis])
                for axis in (0, 1)
            )
            tall = (to_rows @ coarse.reshape(len(coarse), -1)).reshape(len(total), *coarse.shape[1:])
            total += to_columns @ tall  # (pw, w) @ (ph, w, M)
        total /= len(self.scales)
        return total

    def changed(self, change: Change, extent: Extent) -> "MeanUpsampling":
        """See `Upsampling`; every scale has its own extent."""
        scales = zip(self.scales, self.extents, strict=True)
        return MeanUpsampling(tuple(scale.changed(change, own) for scale, own in scales), self.extents)


@lru_cache(maxsize=64)
def bilinear_matrix(source: int, source_extent: float, target: int, target_extent: float) -> Array:
    """The (target, source) matrix that resamples one axis of a grid to another grid over the same image.

    Nodes lie in the middle of their cells; beyond the outer ones the nearest counts.
    """
    position = (np.arange(target) + 0.5) / (target * target_extent) * (source * source_extent) - 0.5
    position = np.clip(position, 0, source - 1)
    low = np.minimum(position.astype(int), max(source - 2, 0))
    matrix = np.zeros((target, source), np.float32)
    rows = np.arange(target)
    matrix[rows, low] = 1 - (position - low)
    matrix[rows, np.minimum(low + 1, source - 1)] += (position - low).astype(np.float32)
    matrix.setflags(write=False)
    return matrix
