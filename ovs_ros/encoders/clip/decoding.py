"""A model's own decoder behind the protocol by which cosines reach the pixels."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from ovs_ros.encoders.clip.dense_model import TorchFeatures
from ovs_ros.encoders.clip.sliding_windows import Windows, merge
from ovs_ros.encoders.upsampling import Array, Change, Extent, Words
from ovs_ros.geometry.resample import resample_bilinear
from ovs_ros.runtime.torch_device import computing, is_out_of_memory

if TYPE_CHECKING:
    from ovs_ros.encoders.clip.image_encoder import TorchImageEncoder


class TorchDecoding:
    """Decodes the words that a frame is decided among with the model's own decoder; see `Upsampling`.

    What it gives in place of cosines are the decoder's logits over the model's `logit_scale`, so that the
    segmenter, which multiplies with that scale, decides by the decoder's logits.

    Args:
        encoder: whose model decodes.
        features: of each window; buffers that the encoder's next frame overwrites.
        windows: their positions.
        patches: (h, w, D) unit embeddings, which serve where the decoder finds no memory.
    """

    def __init__(
        self, encoder: "TorchImageEncoder", features: TorchFeatures, windows: Windows, patches: Array
    ) -> None:
        self._encoder = encoder
        self._features = features
        self._windows = windows
        self._patches = patches

    @property
    def grid(self) -> tuple[int, int]:
        """See `Upsampling`: `decode_scale` times the patches'."""
        scale = self._encoder.model.decode_scale
        return self._windows.rows * scale, self._windows.columns * scale

    def cosines(self, words: Words, added: Array | None = None) -> Array:
        """See `Upsampling`: logits are multiplied with the words' lengths, as cosines would be."""
        if words.ndim == 2:
            lengths = np.linalg.norm(words, axis=1)  # (M,)
            prompts = (words / np.maximum(lengths, 1e-12)[:, None])[:, None]  # (M, 1, D)
        else:
            lengths, prompts = np.ones(len(words), np.float32), words  # (M,), (M, P, D)
        try:
            logits = self._decode(prompts)
        except RuntimeError as error:
            if not is_out_of_memory(error) or not self._encoder.make_do(len(self._windows.corners)):
                raise
            # The grid of this frame is settled: it goes by the patches' cosines, the next one is smaller.
            logits = self._of_patches(lengths[:, None] * prompts.mean(axis=1, dtype=np.float32))
        else:
            logits *= lengths / np.float32(self._encoder.logit_scale)
        if added is not None:
            logits += resample_bilinear(added, self.grid, (1.0, 1.0), (1.0, 1.0))
        return logits

    def changed(self, change: Change, extent: Extent) -> "TorchDecoding":
        """Always refused: the decoder reads the model's own features, which another encoder cannot replace.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"expected a model without a decoder of its own beside a second encoder, got "
            f"{self._encoder.model.name}; leave the second encoder out, or take a plain CLIP"
        )

    def _decode(self, prompts: Words) -> Array:
        """(M, P, D) unit embeddings to (ph, pw, M) logits."""
        encoder = self._encoder
        with torch.cuda.stream(encoder.stream), computing(encoder.footprint.device, encoder.dtype):
            # All words' prompts are a view that may not be written, which torch does not know.
            words = torch.from_numpy(np.require(prompts, requirements="W"))
            words = words.to(encoder.footprint.device).float()
            logits = torch.stack([self._decode_window(number, words) for number in range(self._count)])
            merged = merge(logits, self._windows, encoder.model.decode_scale)
        return encoder.fetch(merged.contiguous())

    @property
    def _count(self) -> int:
        return len(self._windows.corners)

    def _decode_window(self, number: int, words: Tensor) -> Tensor:
        """(height*scale, width*scale, M) float32 logits of one window."""
        model = self._encoder.model
        one = slice(number, number + 1)
        features = TorchFeatures(
            patches=self._features.patches[one],
            image=self._features.image[one],
            decoding=tuple(tensor[one] for tensor in self._features.decoding),
        )
        logits = model.decode(features, words).float()  # (M, h', w')
        size = self._windows.height * model.decode_scale, self._windows.width * model.decode_scale
        if logits.shape[1:] != size:
            logits = interpolate(logits[None], size, mode="bilinear", align_corners=False)[0]
        return logits.permute(1, 2, 0)

    def _of_patches(self, words: NDArray[np.float32]) -> Array:
        height, width, dim = self._patches.shape
        cosines = (self._patches.reshape(-1, dim) @ words.T).reshape(height, width, -1)
        return resample_bilinear(cosines, self.grid, (1.0, 1.0), (1.0, 1.0))
