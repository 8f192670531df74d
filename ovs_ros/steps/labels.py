"""From class indices to class ids, with thresholds: the last step."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ovs_ros.steps.selection import Selection
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings


@dataclass(frozen=True, eq=False)
class Verdict:
    """Labels, and who got how much.

    Attributes:
        labels: (H, W) uint8 or uint16 ids.
        shares: (M,) float32, the share of the pixels of each selected category.
        unknown_share: the share of the pixels without a name.
    """

    labels: NDArray[np.uint8] | NDArray[np.uint16]
    shares: NDArray[np.float32]
    unknown_share: float


def validate(
    indices: NDArray[np.integer],
    confidence: NDArray[np.uint8],
    selection: Selection,
    words: WordEmbeddings,
    threshold: float,
) -> Verdict:
    """Give pixels the ids of their words; those below their threshold or won by a negative become unknown.

    Args:
        indices: (H, W) uint8, uint16 or int32: the M selected categories count from 0, N negatives from M;
            M + N is nobody's. Its dtype holds one number more than there are indices. Overwritten.
        confidence: (H, W) uint8, probabilities in 1/255.
        selection: what the indices mean.
        words: the vocabulary that was selected from.
        threshold: for categories without their own.
    """
    vocabulary = words.vocabulary
    count = len(selection.classes)
    nobody = count + len(vocabulary.negatives)
    own = words.thresholds[selection.classes]
    thresholds = np.where(np.isnan(own), np.float32(threshold), own)
    if thresholds.any():
        least = np.zeros(nobody + 1, np.uint8)
        # Rounded up, but for what a float32 adds to a whole number: 0.6 is 153/255, and 153 is enough.
        least[:count] = np.ceil(thresholds * 255 - 1e-3)
        np.copyto(indices, nobody, where=confidence < look_up(least, indices), casting="unsafe")
    ids = np.full(nobody + 1, vocabulary.unknown_id, np.uint16 if vocabulary.wide else np.uint8)
    ids[:count] = words.ids[selection.classes]
    shares = _histogram(indices, nobody + 1) / indices.size
    return Verdict(look_up(ids, indices), shares[:count].astype(np.float32), float(shares[count:].sum()))


def look_up(table: NDArray, indices: NDArray[np.integer]) -> NDArray:
    """`table[indices]` of a one-dimensional table, C-contiguous and new; quick for 8 bit (H, W) indices."""
    if indices.dtype == np.uint8 and indices.ndim == 2 and table.dtype in (np.uint8, np.uint16):
        full = np.zeros(256, table.dtype)
        full[: len(table)] = table
        return cv2.LUT(indices, full)
    return np.take(table, indices)


def _histogram(indices: NDArray[np.integer], length: int) -> NDArray[np.float64]:
    if indices.dtype == np.uint8 and indices.size:
        flat = np.ascontiguousarray(indices).reshape(1, -1)
        # Its shape is (256, 1) in OpenCV 4 and (256,) in 5.
        return cv2.calcHist([flat], [0], None, [256], [0, 256]).reshape(-1)[:length].astype(np.float64)
    return np.bincount(indices.ravel(), minlength=length).astype(np.float64)
