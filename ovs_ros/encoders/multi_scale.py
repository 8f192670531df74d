"""The same encoder at several scales: what is too small for one is too large for another."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ovs_ros.encoders.protocols import DenseFeatures, ImageEncoder
from ovs_ros.encoders.upsampling import Change, Extent, Upsampling, Words
from ovs_ros.geometry.resample import resample_bilinear

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
            hidden=finest.hidden,
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

    def cosines(self, words: Words, added: Array | None = None) -> Array:
        """See `Upsampling`; what is added belongs to the finest scale's patches, and is spread with them."""
        if added is not None:
            added = added * np.float32(len(self.scales))
        total = self.scales[-1].cosines(words, added)  # (ph, pw, M)
        for scale, extent in zip(self.scales[:-1], self.extents[:-1], strict=True):
            total += resample_bilinear(scale.cosines(words), self.grid, extent, self.extents[-1])
        total /= len(self.scales)
        return total

    def changed(self, change: Change, extent: Extent) -> "MeanUpsampling":
        """See `Upsampling`; every scale has its own extent."""
        scales = zip(self.scales, self.extents, strict=True)
        return MeanUpsampling(tuple(scale.changed(change, own) for scale, own in scales), self.extents)
