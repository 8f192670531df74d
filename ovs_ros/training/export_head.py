"""Write the trained head as `image_head.onnx` and `text_head.npz`, and read it back."""

from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from ovs_ros.encoders.embedded import GUIDE
from ovs_ros.runtime.quantisation import quantise_products, read_weights
from ovs_ros.runtime.torch_to_onnx import write_free
from ovs_ros.training.head import SCALE, TOKEN_WIDTH, Head


class _Graph(nn.Module):
    """The image side of the head for one image."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, tokens: Tensor, guide: Tensor) -> tuple[Tensor, ...]:
        h, w = guide.shape[0] // GUIDE, guide.shape[1] // GUIDE
        hidden, patches = self.head.patches(tokens[1:].reshape(1, h, w, TOKEN_WIDTH))
        rgb = guide.permute(2, 0, 1)[None].float() / 255.0
        weights, details = self.head.upsampling(hidden, rgb)

        def by_patch(x: Tensor) -> Tensor:
            """(1, C, 4h, 4w) to (h*w, 16, C)."""
            split = x.reshape(x.shape[1], h, SCALE, w, SCALE).permute(1, 3, 2, 4, 0)
            return split.reshape(-1, SCALE * SCALE, x.shape[1])

        image = self.head.whole(tokens[None, :1])[0]
        return image, patches.flatten(0, 2), by_patch(weights), by_patch(details), hidden.flatten(0, 2)


def write_image_head(head: Head, path: Path, *, int8: bool = True) -> None:
    """Write the image side of the head as ONNX.

    Inputs: `tokens` (1 + h*w, 1536) float32 of the image encoder; `guide` (8h, 8w, 3) uint8 RGB. Outputs, all
    float32: `image` (1, D) and `patches` (h*w, D) of unit norm; `upsampling` (h*w, 16, 9), convex weights of
    the 3x3 patches around each patch for its 4x4 pixel positions, row by row; `details` (h*w, 16, F);
    `hidden` (h*w, C), what the embeddings are made from.

    Args:
        head: trained.
        path: gets the file; a temporary one with weights in float32 is written there first.
        int8: quantise the linear layers; convolutions stay in float32.
    """
    rows, columns = 2, 3
    arguments = (
        torch.zeros(1 + rows * columns, TOKEN_WIDTH),
        torch.zeros((rows * GUIDE, columns * GUIDE, 3), dtype=torch.uint8),
    )
    outputs = ["image", "patches", "upsampling", "details", "hidden"]
    free = {"tokens": {0: "tokens"}, "guide": {0: "height", 1: "width"}}
    free |= {name: {0: "patches"} for name in outputs[1:]}
    write_free(_Graph(head).eval(), arguments, path, ["tokens", "guide"], outputs, free)
    if int8:
        onnx.save(quantise_products(onnx.load(path)), path)


def save_text_head(head: Head, path: Path) -> None:
    """Write the words' side: `weight` (384, D), `bias` (D,), `details` (D, F), all float32."""
    np.savez(
        path,
        weight=head.words.weight.detach().numpy().T,
        bias=head.words.bias.detach().numpy(),
        details=head.detail_words.weight.detach().numpy().T,
    )


def read_head(models: Path) -> Head:
    """The head of `image_head.onnx` and `text_head.npz`, in evaluation mode; int8 weights are dequantised.

    Args:
        models: the folder with both files.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: `write_image_head` did not write the graph.
    """
    path = models / "image_head.onnx"
    state = {
        name.removeprefix("head."): value
        for name, value in read_weights(path).items()
        if name.startswith("head.")
    }
    with np.load(models / "text_head.npz", allow_pickle=False) as words:
        state["words.weight"], state["words.bias"] = words["weight"].T, words["bias"]
        state["detail_words.weight"] = words["details"].T
    try:
        head = Head(
            width=state["reduce.bias"].size,
            dim=state["patch.bias"].size,
            details=state["details.bias"].size,
            mixers=len([name for name in state if name.endswith("norm.bias")]),
        )
        head.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in state.items()})
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"expected a head that 'ovs train' wrote in {path}: {error}") from error
    return head.eval()
