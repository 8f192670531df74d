"""The result of segmenting one frame."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ovs_ros.vocabulary.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The names of one image's pixels, all under one version of the vocabulary.

    Attributes:
        labels: (H, W) uint8, or uint16 where the vocabulary is wide; category ids, `unknown_id` elsewhere.
            C-contiguous, made for this frame alone.
        confidence: (H, W) uint8, the probability of the pixel's best word in 1/255, among the words that this
            frame was decided among; calibrated where the model's temperature was fitted.
        vocabulary: the names of the ids.
        selected_ids: (M,) uint16, the categories that this frame was decided among, in their order.
        selected_names: their M names.
        scores: (M,) float32 in [0, 1], how sure the selection was that a category is in the frame.
        shares: (M,) float32 in [0, 1], the share of the image's pixels that each of them got.
        unknown_share: the share of the pixels that stayed unknown. It and `shares` add up to one.
        stages_ms: milliseconds that each step took, in their order.
    """

    labels: NDArray[np.uint8] | NDArray[np.uint16]
    confidence: NDArray[np.uint8]
    vocabulary: Vocabulary
    selected_ids: NDArray[np.uint16]
    selected_names: tuple[str, ...]
    scores: NDArray[np.float32]
    shares: NDArray[np.float32]
    unknown_share: float
    stages_ms: Mapping[str, float]

    @property
    def unknown_id(self) -> int:
        """The label of pixels without a name."""
        return self.vocabulary.unknown_id

    @property
    def version(self) -> int:
        """The vocabulary's version."""
        return self.vocabulary.version


def segmentation(
    vocabulary: Vocabulary,
    classes: NDArray[np.intp],
    scores: NDArray[np.float32],
    confidence: NDArray[np.uint8],
    labels: NDArray[np.uint8] | NDArray[np.uint16],
    shares: NDArray[np.float32],
    unknown_share: float,
    stages_ms: Mapping[str, float],
) -> Segmentation:
    """The result with the names of the (M,) class indices that the frame was decided among."""
    names = tuple(vocabulary.categories[index].name for index in classes)
    ids = vocabulary.ids[classes]
    return Segmentation(labels, confidence, vocabulary, ids, names, scores, shares, unknown_share, stages_ms)
