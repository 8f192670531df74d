"""A result whose labels change after the fact."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovs_ros.steps.labels import histogram
from ovs_ros.steps.segmentation import Segmentation, segmentation


def with_labels(
    result: Segmentation, labels: NDArray[np.uint8] | NDArray[np.uint16], confidence: NDArray[np.uint8]
) -> Segmentation:
    """The segmentation with other labels of its vocabulary, and everything that follows from them."""
    ids = result.vocabulary.ids  # (K,)
    counts = histogram(labels, 256 if labels.dtype == np.uint8 else 65536)
    scores = np.full(len(counts), -1, np.float32)
    scores[result.selected_ids] = result.scores
    classes = np.flatnonzero((counts[ids] > 0) | (scores[ids] >= 0))  # (M,)
    present = ids[classes]
    return segmentation(
        result.vocabulary,
        classes,
        np.maximum(scores[present], 0),
        confidence,
        labels,
        (counts[present] / labels.size).astype(np.float32),
        float(counts[result.unknown_id] / labels.size),
        result.stages_ms,
    )


def hide(result: Segmentation, hidden: NDArray[np.bool_]) -> Segmentation:
    """The result with unknown at the hidden pixels (H, W), whose confidence is 0."""
    labels, confidence = result.labels.copy(), result.confidence.copy()
    np.copyto(labels, labels.dtype.type(result.unknown_id), where=hidden)
    np.copyto(confidence, np.uint8(0), where=hidden)
    return with_labels(result, labels, confidence)


def turn_back(result: Segmentation, rotation: int) -> Segmentation:
    """The result of an image that was turned clockwise by 90, 180 or 270 degrees, for the image before."""
    turns = rotation // 90
    labels: NDArray[Any] = np.ascontiguousarray(np.rot90(result.labels, turns))
    confidence: NDArray[Any] = np.ascontiguousarray(np.rot90(result.confidence, turns))
    return replace(result, labels=labels, confidence=confidence)
