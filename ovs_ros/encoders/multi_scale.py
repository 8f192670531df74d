"""The same encoder at several scales and on the mirrored image: what one gets wrong another gets right."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ovs_ros.encoders.features import Features, ResizableEncoder
from ovs_ros.encoders.heads import Head, MeanHead, MirroredHead
from ovs_ros.runtime.stage_clock import StageClock


class MultiScaleImageEncoder:
    """Runs encoders that share one space, coarse to fine, and takes the mean of their logits.

    Each also sees the image mirrored. Patch tokens and output grid are those of the last encoder. See
    `ResizableEncoder` for the contract.

    Args:
        encoders: at least one, the finest last.

    Raises:
        ValueError: no encoder, or encoders of different spaces.
    """

    def __init__(self, encoders: Sequence[ResizableEncoder]) -> None:
        if not encoders or len({encoder.dim for encoder in encoders}) > 1:
            raise ValueError(f"expected encoders of one space, got dimensions {[e.dim for e in encoders]}")
        self._encoders = tuple(encoders)
        finest = self._encoders[-1]
        self.dim, self.logit_scale, self.device = finest.dim, finest.logit_scale, finest.device
        self.name = "+".join(encoder.name for encoder in self._encoders)
        self._own = [encoder.patches for encoder in self._encoders]

    @property
    def patches(self) -> int:
        """How many patch tokens an image has at most at the finest scale."""
        return self._encoders[-1].patches

    def resize(self, patches: int) -> None:
        """See `ResizableEncoder.resize`; the scales keep their proportions."""
        for encoder, own in zip(self._encoders, self._own, strict=True):
            encoder.resize(round(own * patches / self._own[-1]))

    def encode(self, image: NDArray[np.uint8]) -> Features:
        """Encode an RGB image (H, W, 3) uint8 at every scale, and mirrored."""
        turned = np.ascontiguousarray(image[:, ::-1])
        mirrored = [encoder.encode(turned) for encoder in self._encoders]
        scales = [encoder.encode(image) for encoder in self._encoders]
        heads: list[Head] = [MirroredHead(one.head, one.valid[1]) for one in mirrored]
        heads += [one.head for one in scales]
        scales = [*mirrored, *scales]
        clock = StageClock()
        for scale in scales:
            clock.add(scale.stages_ms)
        class_token = np.mean([scale.class_token for scale in scales], axis=0)  # (D,)
        return replace(
            scales[-1],
            class_token=class_token / np.linalg.norm(class_token),
            head=MeanHead(tuple(heads), tuple(scale.valid for scale in scales)),
            stages_ms=clock.stages_ms,
        )
