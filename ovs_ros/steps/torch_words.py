"""A vocabulary on a device, in buffers of a fixed capacity, so that another one can take its place."""

import numpy as np
import torch

from ovs_ros.steps.labels import least_confidence
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings

CAPACITIES = (8, 16, 32, 64, 128, 192, 256, 512, 1024, 2048)
"""Sizes of buffers: a vocabulary that outgrows its own costs a new CUDA graph."""


def capacities(words: WordEmbeddings) -> tuple[int, int]:
    """How many rows the categories and the negatives of a vocabulary get.

    Raises:
        ValueError: there are more than the largest buffer holds.
    """
    count = len(words.ids)
    negatives = len(words.embeddings) - count
    if max(count, negatives) > CAPACITIES[-1]:
        raise ValueError(
            f"expected at most {CAPACITIES[-1]} categories and negatives on a device, got {count} and "
            f"{negatives}; use Segmenter"
        )
    rows, rest = (next(size for size in CAPACITIES if size >= number) for number in (count, negatives))
    return rows, rest if negatives else 0


class DeviceWords:
    """K categories from row 0 on, and N negatives from row `categories` on.

    Attributes:
        categories, negatives: the capacities; rows beyond K and N are empty.
        embeddings: (C, D) float32, C = categories + negatives; empty rows are 0.
        there: (C,) bool, False for empty rows.
        least: (C,) uint8, the lowest confidence in 1/255 with which a pixel keeps its category.
        ids: (C,) uint8, or int16 with the bits of uint16 where the vocabulary is wide: the label of each row,
            which for negatives is that of the unknown.
        unknown: (1,) of the same dtype.

    Args:
        words: a vocabulary of the size and width to make room for; `hold` takes it in.
        device: where the buffers lie.
    """

    def __init__(self, words: WordEmbeddings, device: torch.device) -> None:
        self.categories, self.negatives = capacities(words)
        rows = self.categories + self.negatives
        ids = torch.int16 if words.vocabulary.wide else torch.uint8
        self.embeddings = torch.zeros((rows, words.embeddings.shape[1]), device=device)
        self.there = torch.zeros(rows, dtype=torch.bool, device=device)
        self.least = torch.zeros(rows, dtype=torch.uint8, device=device)
        self.ids = torch.zeros(rows, dtype=ids, device=device)
        self.unknown = torch.zeros(1, dtype=ids, device=device)
        self._held: tuple[WordEmbeddings, float] | None = None

    def hold(self, words: WordEmbeddings, threshold: float) -> None:
        """Take a vocabulary of these capacities in, unless it is there.

        Args:
            words: the vocabulary.
            threshold: probability below which a pixel is unknown, for categories without their own.
        """
        if self._held is not None and self._held[0] is words and self._held[1] == threshold:
            return
        count, total = len(words.ids), len(words.embeddings)
        rows = np.r_[0:count, self.categories : self.categories + total - count]
        embeddings = np.zeros(self.embeddings.shape, np.float32)
        embeddings[rows] = words.embeddings
        there = np.zeros(len(embeddings), bool)
        there[rows] = True
        least = np.zeros(len(embeddings), np.uint8)
        least[:count] = least_confidence(words, threshold)
        wide = words.vocabulary.wide
        ids = np.full(len(embeddings) + 1, words.vocabulary.unknown_id, np.uint16 if wide else np.uint8)
        ids[:count] = words.ids
        if wide:
            ids = ids.view(np.int16)
        buffers = (self.embeddings, self.there, self.least, self.ids, self.unknown)
        for buffer, values in zip(buffers, (embeddings, there, least, ids[:-1], ids[-1:]), strict=True):
            buffer.copy_(torch.from_numpy(values))
        self._held = words, threshold
