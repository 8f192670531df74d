"""The head of a torch model that has a decoder of its own."""

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ovs_ros.encoders.clip.dense_model import DenseModel, TorchFeatures
from ovs_ros.encoders.clip.sliding_windows import Windows, merge
from ovs_ros.encoders.heads import Array, Change, CosineHead, Valid, Words, spread
from ovs_ros.runtime.torch_device import computing, is_out_of_memory


class Device(Protocol):
    """What a decoder asks of the image encoder that runs its model; see `TorchImageEncoder`."""

    model: DenseModel
    footprint: Any
    dtype: torch.dtype
    stream: "torch.cuda.Stream | None"
    logit_scale: float

    def fetch(self, values: Tensor) -> Any:
        """A tensor of the device as an array."""

    def fall_back(self, windows: int) -> bool:
        """Need less memory from now on; False: there is nothing left to give up."""


class TorchDecoderHead:
    """Decodes the words that a frame is decided among with the model's own decoder; see `Head`.

    Args:
        encoder: whose model decodes.
        features: of each window; buffers that the encoder's next frame overwrites.
        windows: where they lie.
        patch_tokens: (h, w, D) unit embeddings, which serve where the decoder finds no memory.
    """

    def __init__(
        self, encoder: Device, features: TorchFeatures, windows: Windows, patch_tokens: Array
    ) -> None:
        self._encoder = encoder
        self._features = features
        self._windows = windows
        self._patch_tokens = patch_tokens

    @property
    def grid(self) -> tuple[int, int]:
        """See `Head`: `decode_scale` times the patches'."""
        scale = self._encoder.model.decode_scale
        return self._windows.rows * scale, self._windows.columns * scale

    def logits(self, words: Words, added: Array | None = None) -> Array:
        """See `Head`; where memory is full, this frame goes by the cosines of the patches."""
        prompts = words[:, None] if words.ndim == 2 else words  # (M, P, D)
        try:
            logits = self._decode(prompts)
        except RuntimeError as error:
            if not is_out_of_memory(error) or not self._encoder.fall_back(len(self._windows.corners)):
                raise
            plain = CosineHead(self._patch_tokens, self._encoder.logit_scale)
            logits = spread(plain.logits(prompts.mean(axis=1, dtype=np.float32)), self.grid)
        if added is not None:
            logits += spread(added, self.grid)
        return logits

    def changed(self, change: Change, valid: Valid) -> "TorchDecoderHead":
        """Refused: the decoder reads the model's own features, which another encoder cannot stand in for.

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
