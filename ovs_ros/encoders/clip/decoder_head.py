"""Decoding with a torch model that has a decoder of its own."""

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ovs_ros.encoders.clip.dense_model import DenseModel, TorchFeatures
from ovs_ros.encoders.clip.sliding_windows import Windows, merge
from ovs_ros.encoders.heads import Array, CosineHead, DecoderHead, Words
from ovs_ros.runtime.torch_device import computing, is_out_of_memory


class Device(Protocol):
    """What decoding needs of the image encoder that runs the model; see `TorchImageEncoder`."""

    model: DenseModel
    footprint: Any
    dtype: torch.dtype
    stream: "torch.cuda.Stream | None"
    logit_scale: float

    def fetch(self, values: Tensor) -> Any:
        """A tensor of the device as an array."""

    def fall_back(self, windows: int) -> bool:
        """Use less memory from now on; False: that is not possible."""


def torch_decoder_head(
    encoder: Device, features: TorchFeatures, windows: Windows, patch_tokens: Array
) -> DecoderHead:
    """The head over one image's features.

    Args:
        encoder: whose model decodes.
        features: of each window; buffers that the encoder's next frame overwrites.
        windows: where they lie.
        patch_tokens: (h, w, D) unit embeddings; where memory is full, their cosines serve for this frame.
    """
    model = encoder.model
    scale = model.decode_scale

    def decode(prompts: Words) -> Array:
        try:
            with torch.cuda.stream(encoder.stream), computing(encoder.footprint.device, encoder.dtype):
                # All words' prompts are a view that may not be written, which torch does not know.
                words = torch.from_numpy(np.require(prompts, requirements="W"))
                words = words.to(encoder.footprint.device).float()
                logits = torch.stack([decode_window(i, words) for i in range(len(windows.corners))])
                merged = merge(logits, windows, scale)
            fetched: Array = encoder.fetch(merged.contiguous())
            return fetched
        except RuntimeError as error:
            if not is_out_of_memory(error) or not encoder.fall_back(len(windows.corners)):
                raise
            plain = CosineHead(patch_tokens, encoder.logit_scale)
            return plain.logits(prompts.mean(axis=1, dtype=np.float32))

    def decode_window(number: int, words: Tensor) -> Tensor:
        """(height*scale, width*scale, M) float32 logits of one window."""
        one = slice(number, number + 1)
        decoding = tuple(tensor[one] for tensor in features.decoding)
        logits = model.decode(TorchFeatures(features.patches[one], features.image[one], decoding), words)
        size = windows.height * scale, windows.width * scale
        logits = logits.float()  # (M, h', w')
        if logits.shape[1:] != size:
            logits = interpolate(logits[None], size, mode="bilinear", align_corners=False)[0]
        return logits.permute(1, 2, 0)

    return DecoderHead(model.name, (windows.rows * scale, windows.columns * scale), decode)
