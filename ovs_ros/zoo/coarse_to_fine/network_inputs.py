"""Inputs and outputs of the network."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ImageFeatures:
    """A batch of B images as an encoder sees them, on a grid of h x w patches.

    Attributes:
        patches: (B, h, w, D) float, unit norm, in the space shared with words.
        image: (B, D) float, unit norm, the whole image in that space.
        shallow: each (B, h, w, C_i) float, outputs of earlier encoder layers, earliest first; may be empty.
        attention: (B, h, w, heads) float, how much the class token attends to each patch: non-negative, with
            sum 1 over the grid; None where the encoder gives none.
    """

    patches: Tensor
    image: Tensor
    shallow: tuple[Tensor, ...] = ()
    attention: Tensor | None = None


@dataclass(frozen=True)
class NetworkOutput:
    """What the network says of a batch, and what its losses need.

    Attributes:
        logits: (B, M, s*h, s*w) float32 with s = 2**levels; `PADDED_LOGIT` where a category is only padding.
        cosines: (B, M, h, w) float32, the scaled cosines of patches with words that the logits started from.
        patches: (B, h, w, D) float, the patches after the words were shown to them (eq. 10), not of unit
            norm; without that part the patches that came in, times the square root of D.
        words: (B, M, D) float, unit norm, the words after the image was shown to them (P2Tformer); without
            that part the mean over prompts.
    """

    logits: Tensor
    cosines: Tensor
    patches: Tensor
    words: Tensor


PADDED_LOGIT = -1e4
"""The logit of a category that is only padding: no probability in a softmax, and none in a sigmoid."""
