"""The interface of torch models: dense features, and for some a decoder of their own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn


@dataclass(frozen=True)
class TorchFeatures:
    """B images in the space that they share with words.

    Attributes:
        patches: (B, h, w, D), unit L2 norm over D.
        image: (B, D), unit L2 norm.
        decoding: what the model's own `decode` needs beside them, the B images first in each; empty where
            there is none.
    """

    patches: Tensor
    image: Tensor
    decoding: tuple[Tensor, ...] = ()


class DenseModel(nn.Module):
    """A frozen image encoder whose patches share a space with words; subclasses give the forward pass.

    Weights are float32 on the CPU when it is made; `TorchImageEncoder` brings it to a device and a precision.
    In lower precision `dense` and `decode` run under autocast, and the matrices that `dense` uses are cast;
    the text tower stays in float32. For a CUDA graph `dense` must not wait for the device: no `.item()`, no
    shapes that depend on values. It may keep what depends on the images' shape alone.

    Attributes:
        name: identifies architecture, weights and variant, for reports and cache keys.
        dim: D, the width of the shared space.
        stride: a patch's side in pixels.
        logit_scale: what cosines are multiplied with before a softmax over categories.
        mean, std: of RGB in [0, 1], what the input is normalised with.
        decodes: whether `decode` turns features and words into logits; False: cosines are all there is.
        decode_scale: how many logits a patch's side has where the model decodes: 4 for CAT-Seg. What `decode`
            gives on another grid is resampled bilinearly to this one.
        templates: prompt templates that the model asks for, each with one '{}'; empty: CLIP's for ImageNet.
        capturable: whether `dense` can be a CUDA graph; False where it waits for the device midway.
        cuts_windows: whether the model itself cuts images into windows, so that nobody else has to.
        keeps_prompts: whether `decode` wants the embedding of each prompt; False: their mean.
        trained_names: that pixels were labelled with in training, as far as they are known.
        selection_file: where the trained selection head lies, if there is one; None: there is none.
    """

    name: str
    dim: int
    stride: int
    logit_scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    decodes: bool = False
    decode_scale: int = 1
    templates: tuple[str, ...] = ()
    capturable: bool = True
    cuts_windows: bool = False
    keeps_prompts: bool = False
    trained_names: tuple[str, ...] = ()
    selection_file: Path | None = None

    def dense(self, images: Tensor) -> TorchFeatures:
        """Encode images.

        Args:
            images: (B, 3, H, W) normalised RGB, H and W multiples of `stride`, on the model's device and in
                its dtype.
        """
        raise NotImplementedError

    def decode(self, features: TorchFeatures, words: Tensor) -> Tensor:
        """Logits of one image's pixels for words, where `decodes` is True.

        Args:
            features: of one image (B = 1).
            words: (M, P, D) unit embeddings of P prompts for each of M words; P = 1, the mean over prompts,
                unless the model keeps prompts.

        Returns:
            (M, h', w') logits on a grid of the model's choice that covers the same area as the patches.
        """
        raise NotImplementedError

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed texts with the model's own text tower, in one batch: (len(texts), D) unit rows."""
        raise NotImplementedError
