"""The seam between models and steps: an image becomes features, features and words become logits."""

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ovs_ros.encoders.heads import Head, Words


@dataclass(frozen=True, eq=False)
class Features:
    """What a model knows of one image, in the space that images share with words.

    Every embedding has unit L2 norm, so that a dot product with a word embedding is their cosine.

    Attributes:
        class_token: (D,) float32, the whole image.
        patch_tokens: (h, w, D) float32, one embedding for each patch of the patch grid.
        head: computes the logits of words on the model's own output grid.
        valid: (y, x), the share of both grids that the image covers, from the top left corner; the rest is
            padding. Each in (0, 1].
        logit_scale: what cosines are multiplied with to become logits.
        hidden: (h, w, C) float32, what the encoder knows of each patch beside its embedding, for a trained
            network (see steps/network.py); None where the encoder gives nothing.
        stages_ms: milliseconds of 'prepare' (resize, pad), 'encode' (the network) and 'project' (the head).
    """

    class_token: NDArray[np.float32]
    patch_tokens: NDArray[np.float32]
    head: Head
    valid: tuple[float, float]
    logit_scale: float
    hidden: NDArray[np.float32] | None = None
    stages_ms: dict[str, float] = field(default_factory=dict)

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the output grid, padding included."""
        return self.head.grid

    def logits(self, words: Words, added: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """How well each node of the output grid goes with each word, before a softmax over words.

        Args:
            words: (M, D) float32 unit rows; or (M, P, D), each word's prompts apart, for a model whose
                decoder wants them so.
            added: (h, w, M) logits that are added to those of the patches; None: nothing.

        Returns:
            (rows, columns, M) float32, C-contiguous: scaled cosines, or what the model's own decoder gives.
        """
        return self.head.logits(words, added)


class ImageEncoder(Protocol):
    """Turns images into features."""

    name: str
    """Identifies the weights and the resolution, for reports."""
    dim: int
    """D, the width of the space shared with words."""
    logit_scale: float
    """What cosines are multiplied with before a softmax over words."""
    device: str
    """Where it runs, for reports: 'cpu', 'cuda:0', …"""

    def encode(self, image: NDArray[np.uint8]) -> Features:
        """Encode an RGB image (H, W, 3) uint8 of any size. Not for two threads at once."""


@runtime_checkable
class ResizableEncoder(ImageEncoder, Protocol):
    """An image encoder that can cut the next image into more or fewer patches: time against detail.

    Its `name` stays that of the size it was opened with.
    """

    @property
    def patches(self) -> int:
        """How many patch tokens an image has at most now; 0: the size is fixed after all."""

    def resize(self, patches: int) -> None:
        """Cut images into at most this many patches from the next one on. For the thread that encodes."""


def resizable(encoder: ImageEncoder) -> ResizableEncoder | None:
    """The encoder, if its size can change."""
    return encoder if isinstance(encoder, ResizableEncoder) and encoder.patches > 0 else None
