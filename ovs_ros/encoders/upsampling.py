"""Upsample cosines of patches to pixel positions, at a cost nearly independent of the vocabulary."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isqrt
from typing import Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ovs_ros.geometry.resample import resample_bilinear

Array = NDArray[np.float32]
Words = Array | NDArray[np.float16]
Extent = tuple[float, float]
Change = Callable[[Array, Extent], Array]
"""Unit embeddings (h, w, D), and the share (y, x) of the grid that the image covers, to other embeddings."""


class Upsampling(Protocol):
    """Computes cosines on a grid finer than the patches'."""

    @property
    def grid(self) -> tuple[int, int]:
        """(ph, pw), the fine grid, padding included."""

    def cosines(self, words: Words, added: Array | None = None) -> Array:
        """Cosines with words at pixel positions.

        Args:
            words: (M, D) of any length; or (M, P, D) unit rows, each word's prompts apart, for a model whose
                decoder wants them so.
            added: (h, w, M), what is added to each patch's cosines before they are spread; None: nothing.

        Returns:
            (ph, pw, M) float32, C-contiguous.
        """

    def changed(self, change: Change, extent: Extent) -> "Upsampling":
        """The same upsampling over other embeddings.

        Args:
            change: makes them from the present ones.
            extent: the share (y, x) of the grid that the image covers.
        """


@dataclass(frozen=True)
class DensePixels:
    """An encoder that gives an embedding for every pixel position: `pixels` (ph, pw, D) of unit norm."""

    pixels: Array

    @property
    def grid(self) -> tuple[int, int]:
        """See `Upsampling`."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def cosines(self, words: Words, added: Array | None = None) -> Array:
        """See `Upsampling`; what is added is spread bilinearly."""
        height, width, dim = self.pixels.shape
        cosines = (self.pixels.reshape(-1, dim) @ words.T).reshape(height, width, -1)
        if added is not None:
            cosines += resample_bilinear(added, self.grid, (1.0, 1.0), (1.0, 1.0))
        return cosines

    def changed(self, change: Change, extent: Extent) -> "DensePixels":
        """See `Upsampling`."""
        return DensePixels(change(self.pixels, extent))


@dataclass(frozen=True)
class ConvexUpsampling:
    """Each pixel position takes a convex combination of the 3x3 patches around it, and a narrow detail.

    RAFT's upsampling (Teed and Deng 2020, section 3.3), applied to the cosines with any words, so that its
    weights need not know the vocabulary; beyond the border the nearest patch stands in.

    Attributes:
        patches: (h, w, D) unit embeddings.
        weights: (h*w, s*s, 9), convex over the last axis.
        details: (h*w, s*s, F).
        detail_words: (D, F), the weights of the details for a word.
    """

    patches: Array
    weights: Array
    details: Array
    detail_words: Array

    @property
    def grid(self) -> tuple[int, int]:
        """See `Upsampling`: (s*h, s*w)."""
        s = isqrt(self.weights.shape[1])
        return self.patches.shape[0] * s, self.patches.shape[1] * s

    def cosines(self, words: Words, added: Array | None = None) -> Array:
        """See `Upsampling`."""
        h, w, dim = self.patches.shape
        m, s = len(words), isqrt(self.weights.shape[1])
        coarse = (self.patches.reshape(-1, dim) @ words.T).reshape(h, w, m)
        if added is not None:
            coarse += added
        bordered = np.pad(coarse, ((1, 1), (1, 1), (0, 0)), mode="edge")
        around = sliding_window_view(bordered, (3, 3, 1))[..., 0]  # (h, w, M, 3, 3)
        around = around.transpose(0, 1, 3, 4, 2).reshape(h * w, 9, m)
        fine = self.details.reshape(-1, self.details.shape[2]) @ (words @ self.detail_words).T  # (h*w*s*s, M)
        fine = fine.reshape(h * w, s * s, m)
        fine += self.weights @ around
        return fine.reshape(h, w, s, s, m).transpose(0, 2, 1, 3, 4).reshape(h * s, w * s, m)

    def changed(self, change: Change, extent: Extent) -> "ConvexUpsampling":
        """See `Upsampling`."""
        return replace(self, patches=change(self.patches, extent))
