"""From class indices to class ids, with thresholds: the last step."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ovs_ros.steps.selection import Selection
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings


class Verdict(NamedTuple):
    """Labels, and which share of the pixels each name has.

    Attributes:
        labels: (H, W) uint8 or uint16 ids.
        shares: (M,) float32, of each selected category.
        unknown_share: of the pixels without a name.
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
    vocabulary, classes = words.vocabulary, selection.classes
    count = len(classes)
    nobody = count + len(words.negatives)
    least = np.zeros(nobody + 1, np.uint8)
    least[:count] = least_confidence(words, threshold)[classes]
    if least.any():
        np.copyto(indices, nobody, where=confidence < look_up(least, indices), casting="unsafe")
    ids = np.full(nobody + 1, vocabulary.unknown_id, np.uint16 if vocabulary.wide else np.uint8)
    ids[:count] = words.ids[classes]
    shares = histogram(indices, nobody + 1) / indices.size
    return Verdict(look_up(ids, indices), shares[:count].astype(np.float32), float(shares[count:].sum()))


def least_confidence(words: WordEmbeddings, threshold: float) -> NDArray[np.float32]:
    """(K,) the lowest confidence in 1/255, a whole number, with which a pixel keeps its category.

    Args:
        words: the vocabulary.
        threshold: probability below which a pixel is unknown, for categories without their own.
    """
    thresholds = np.where(np.isnan(words.thresholds), np.float32(threshold), words.thresholds)
    # Rounded up, but for what a float32 adds to a whole number: 0.6 is 153/255, and 153 is enough.
    return np.ceil(thresholds * 255 - 1e-3)


def look_up(table: NDArray, indices: NDArray[np.integer]) -> NDArray:
    """`table[indices]` of a one-dimensional table, C-contiguous and new; quick for 8 bit (H, W) indices."""
    if indices.dtype == np.uint8 and indices.ndim == 2 and table.dtype in (np.uint8, np.uint16):
        full = np.zeros(256, table.dtype)
        full[: len(table)] = table
        return cv2.LUT(indices, full)
    return np.take(table, indices)


def histogram(labels: NDArray[np.integer], length: int) -> NDArray[np.float64]:
    """How often each number below `length` is in (H, W) labels: (length,) float64."""
    flat = labels.reshape(-1)
    if not flat.size:
        return np.zeros(length)
    # By runs of equal pixels. Counting them one by one is slow where neighbours are alike: each count waits
    # for the one before.
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    runs = np.diff(starts, append=flat.size).astype(np.float64)
    counts = np.bincount(flat.take(starts), weights=runs, minlength=length)[:length]
    return counts.astype(np.float64, copy=False)
