"""The interfaces of image encoders and text encoders."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ovs_ros.encoders.upsampling import Upsampling


@dataclass(frozen=True)
class DenseFeatures:
    """One image in the space that it shares with words.

    Every embedding has unit L2 norm, so that a dot product with a text embedding is their cosine.

    Attributes:
        image: (D,) float32, the whole image.
        patches: (gh, gw, D) float32, one embedding for each patch of the encoder's grid.
        upsampling: gives cosines with words on the finer grid that the logits are computed on.
        extent: (y, x), the share of both grids that the image covers, from the top left corner;
            the rest is padding. Each in (0, 1].
        hidden: (gh, gw, C) float32, the encoder's features of each patch beside its embedding, for a network
            that refines the cosines (see steps/network.py); None where it gives nothing.
    """

    image: NDArray[np.float32]
    patches: NDArray[np.float32]
    upsampling: Upsampling
    extent: tuple[float, float]
    hidden: NDArray[np.float32] | None = None


class ImageEncoder(Protocol):
    """Turns an image into embeddings."""

    name: str
    """Identifies the weights and the resolution, for reports."""
    dim: int
    """D, the width of the shared space."""
    logit_scale: float
    """What cosines are multiplied with before a softmax over categories."""
    device: str
    """Where it runs, for reports: 'cpu', 'cuda:0', …"""

    def prepare(self, image: NDArray[np.uint8]) -> Any:
        """Resize, pad and normalise an RGB image (H, W, 3) uint8 of any size to the network's input."""

    def backbone(self, prepared: Any) -> Any:
        """Run the encoder network alone, on what `prepare` gave. `ovs bench` times this as the encoder."""

    def project(self, features: Any) -> DenseFeatures:
        """Bring what `backbone` gave into the space shared with words."""


@runtime_checkable
class TimedEncoder(Protocol):
    """An image encoder on a device that works while others go on: it alone can tell how long it takes."""

    def time_backbone(self, prepared: Any) -> float:
        """Milliseconds that `backbone` takes; waits until it is done."""

    def time_batch(self, prepared: Any, batch: int, runs: int) -> list[float]:
        """Milliseconds of each run of the network over `batch` images at once, after a warm-up."""


class TextEncoder(Protocol):
    """Turns texts into embeddings."""

    name: str
    """Identifies the weights: part of the key under which embeddings are cached."""
    dim: int
    """D, the width of the shared space."""
    templates: tuple[str, ...]
    """The prompt templates that suit this encoder, each with one '{}' for the name."""
    keeps_prompts: bool = False
    """Whether the model beside it wants the embedding of each prompt of a word, beside their mean."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts: (len(texts), D) float32, rows of unit L2 norm."""
