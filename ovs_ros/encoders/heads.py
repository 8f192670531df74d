"""Heads: from an image's features to the logits of words on the model's output grid."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from math import isqrt
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ovs_ros.geometry.resample import mirror, resample_bilinear

Array = NDArray[np.float32]
Words = Array | NDArray[np.float16]
Valid = tuple[float, float]
Change = Callable[[Array, Valid], Array]
"""Unit embeddings (h, w, D), and the share (y, x) of the grid that the image covers, to other embeddings."""


class Head(Protocol):
    """Computes logits of words for one image, on a grid at least as fine as the patch grid."""

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the output grid, padding included."""

    @property
    def separable(self) -> bool:
        """Whether each word's logits are the same whatever other words there are."""

    def logits(self, words: Words, added: Array | None = None) -> Array:
        """See `Features.logits`."""

    def changed(self, change: Change, valid: Valid) -> "Head":
        """The same head over other embeddings.

        Args:
            change: makes them from the present ones.
            valid: the share (y, x) of the grid that the image covers.

        Raises:
            ValueError: the head reads more than embeddings.
        """


def spread(grid: Array, size: tuple[int, int]) -> Array:
    """A whole grid (h, w, M) on a finer one of the same area, (rows, columns, M), bilinearly."""
    if grid.shape[:2] == size:
        return grid
    return resample_bilinear(grid, size, (1.0, 1.0), (1.0, 1.0))


@dataclass(frozen=True, eq=False)
class CosineHead:
    """Scaled cosines of words with the embeddings of the output grid's nodes.

    Attributes:
        embeddings: (rows, columns, D) float32 unit embeddings.
        logit_scale: what cosines are multiplied with.
    """

    embeddings: Array
    logit_scale: float

    @property
    def grid(self) -> tuple[int, int]:
        """See `Head`."""
        return self.embeddings.shape[0], self.embeddings.shape[1]

    @property
    def separable(self) -> bool:
        """See `Head`."""
        return True

    def logits(self, words: Words, added: Array | None = None) -> Array:
        """See `Head`; what is added is spread bilinearly."""
        rows, columns, dim = self.embeddings.shape
        scaled = words * np.float32(self.logit_scale)  # (M, D)
        logits = (self.embeddings.reshape(-1, dim) @ scaled.T).reshape(rows, columns, -1)
        if added is not None:
            logits += spread(added, self.grid)
        return logits

    def changed(self, change: Change, valid: Valid) -> "CosineHead":
        """See `Head`."""
        return replace(self, embeddings=change(self.embeddings, valid))


@dataclass(frozen=True, eq=False)
class ConvexHead:
    """Each node takes a convex combination of the logits of the 3x3 patches around it, and a narrow detail.

    RAFT's upsampling (Teed and Deng 2020, section 3.3), applied to the cosines with any words, so that its
    weights need not know the vocabulary; beyond the border the nearest patch stands in.

    Attributes:
        patch_tokens: (h, w, D) unit embeddings.
        weights: (h*w, s*s, 9), convex over the last axis.
        details: (h*w, s*s, F).
        detail_words: (D, F), what a word asks of the details.
        logit_scale: what cosines are multiplied with.
    """

    patch_tokens: Array
    weights: Array
    details: Array
    detail_words: Array
    logit_scale: float

    @property
    def grid(self) -> tuple[int, int]:
        """See `Head`: (s*h, s*w)."""
        s = isqrt(self.weights.shape[1])
        return self.patch_tokens.shape[0] * s, self.patch_tokens.shape[1] * s

    @property
    def separable(self) -> bool:
        """See `Head`."""
        return True

    def logits(self, words: Words, added: Array | None = None) -> Array:
        """See `Head`; what is added to patches is combined as their own logits are."""
        h, w, dim = self.patch_tokens.shape
        m, s = len(words), isqrt(self.weights.shape[1])
        scaled = words * np.float32(self.logit_scale)  # (M, D)
        coarse = (self.patch_tokens.reshape(-1, dim) @ scaled.T).reshape(h, w, m)
        if added is not None:
            coarse += spread(added, (h, w))  # An image's patch tokens may be means of these.
        around = coarse.reshape(h * w, m).take(_around(h, w), axis=0)  # (h*w, 9, M)
        asked = scaled @ self.detail_words  # (M, F)
        fine = self.details.reshape(-1, self.details.shape[2]) @ asked.T  # (h*w*s*s, M)
        fine = fine.reshape(h * w, s * s, m)
        fine += self.weights @ around
        return fine.reshape(h, w, s, s, m).transpose(0, 2, 1, 3, 4).reshape(h * s, w * s, m)

    def changed(self, change: Change, valid: Valid) -> "ConvexHead":
        """See `Head`."""
        return replace(self, patch_tokens=change(self.patch_tokens, valid))


@lru_cache(maxsize=16)
def _around(h: int, w: int) -> NDArray[np.intp]:
    """(h * w, 9) the 3x3 nodes around each node of a grid; beyond the border the nearest one."""
    rows, columns = (np.clip(np.arange(n)[:, None] + (-1, 0, 1), 0, n - 1) for n in (h, w))
    nodes = rows[:, None, :, None] * w + columns[None, :, None, :]  # (h, w, 3, 3)
    nodes = nodes.reshape(h * w, 9)
    nodes.setflags(write=False)
    return nodes


@dataclass(frozen=True, eq=False)
class BilinearHead:
    """Another head's logits on a grid `factor` times as fine."""

    coarse: Head
    factor: int

    @property
    def grid(self) -> tuple[int, int]:
        """See `Head`."""
        rows, columns = self.coarse.grid
        return rows * self.factor, columns * self.factor

    @property
    def separable(self) -> bool:
        """See `Head`."""
        return self.coarse.separable

    def logits(self, words: Words, added: Array | None = None) -> Array:
        """See `Head`."""
        return spread(self.coarse.logits(words, added), self.grid)

    def changed(self, change: Change, valid: Valid) -> "BilinearHead":
        """See `Head`."""
        return replace(self, coarse=self.coarse.changed(change, valid))


@dataclass(frozen=True, eq=False)
class MeanHead:
    """The mean of several scales' logits on the last one's grid.

    Attributes:
        scales: the finest last.
        valid: the share (y, x) of each scale's grid that the image covers.
    """

    scales: tuple[Head, ...]
    valid: tuple[Valid, ...]

    @property
    def grid(self) -> tuple[int, int]:
        """See `Head`."""
        return self.scales[-1].grid

    @property
    def separable(self) -> bool:
        """See `Head`."""
        return all(scale.separable for scale in self.scales)

    def logits(self, words: Words, added: Array | None = None) -> Array:
        """See `Head`; what is added belongs to the finest scale's patches."""
        if added is not None:
            added = added * np.float32(len(self.scales))
        total = self.scales[-1].logits(words, added)  # (rows, columns, M)
        for scale, valid in zip(self.scales[:-1], self.valid[:-1], strict=True):
            total += resample_bilinear(scale.logits(words), self.grid, valid, self.valid[-1])
        total /= len(self.scales)
        return total

    def changed(self, change: Change, valid: Valid) -> "MeanHead":
        """See `Head`; every scale has its own valid share."""
        scales = zip(self.scales, self.valid, strict=True)
        return MeanHead(tuple(scale.changed(change, own) for scale, own in scales), self.valid)


@dataclass(frozen=True, eq=False)
class MirroredHead:
    """The logits of a mirrored image, turned back.

    Attributes:
        mirrored: the head of the mirrored image.
        extent: the share of its columns that the image covers.
    """

    mirrored: Head
    extent: float

    @property
    def grid(self) -> tuple[int, int]:
        """See `Head`."""
        return self.mirrored.grid

    @property
    def separable(self) -> bool:
        """See `Head`."""
        return self.mirrored.separable

    def logits(self, words: Words, added: Array | None = None) -> Array:
        """See `Head`; what is added belongs to the image, so it is mirrored first."""
        turned = None if added is None else mirror(added, self.extent)
        return mirror(self.mirrored.logits(words, turned), self.extent)

    def changed(self, change: Change, valid: Valid) -> "MirroredHead":
        """See `Head`; embeddings are changed as the image's own, and mirrored again."""

        def turned(embeddings: Array, valid: Valid) -> Array:
            return mirror(change(mirror(embeddings, valid[1]), valid), valid[1])

        return replace(self, mirrored=self.mirrored.changed(turned, valid))


class DecoderHead:
    """Decodes the words that a frame is decided among with the model's own decoder; see `Head`.

    Args:
        name: of the model, for errors.
        grid: see `Head`.
        decode: gives logits (rows, columns, M) for (M, P, D) unit embeddings.
    """

    separable = False

    def __init__(self, name: str, grid: tuple[int, int], decode: Callable[[Words], Array]) -> None:
        self.name = name
        self.grid = grid
        self._decode = decode

    def logits(self, words: Words, added: Array | None = None) -> Array:
        """See `Head`; what is added is spread bilinearly."""
        logits = self._decode(words[:, None] if words.ndim == 2 else words)
        if logits.shape[:2] != self.grid:
            logits = spread(logits, self.grid)
        if added is not None:
            logits += spread(added, self.grid)
        return logits

    def changed(self, change: Change, valid: Valid) -> "DecoderHead":
        """Refused: the decoder reads the model's own features, which another encoder cannot replace.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"expected a model without a decoder of its own beside a second encoder, got {self.name}; leave "
            "the second encoder out, or take a plain CLIP"
        )
