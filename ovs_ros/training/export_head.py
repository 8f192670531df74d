"""Write the trained head down as `image_head.onnx` and `text_head.npz`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from ovs_ros.encoders.embedded import GUIDE
from ovs_ros.training.head import SCALE, TOKEN_WIDTH, Head
from ovs_ros.training.onnx_graph import Graph
from ovs_ros.training.train_head import mean_state

Array = NDArray[np.float32]


def load_mean(paths: Sequence[Path], shares: Sequence[float] | None = None) -> Head:
    """The head whose weights are the mean of those that runs wrote; `shares`: how much each counts."""
    head = Head()
    head.load_state_dict(mean_state(paths, "head", shares))
    return head.eval()


def build_image_head(head: Head, *, int8: bool) -> onnx.ModelProto:
    """The image side of the head as a graph.

    Inputs: `tokens` (1 + h*w, 1536) float32 of the image encoder; `guide` (8h, 8w, 3) uint8 RGB. Outputs, all
    float32: `image` (1, D) and `patches` (h*w, D) of unit norm; `upsampling` (h*w, 16, 9), convex weights of
    the 3x3 patches around each patch for its 4x4 pixel positions, row by row; `details` (h*w, 16, F);
    `hidden` (h*w, C), what the embeddings are made from.
    """
    state = {name: value.detach().numpy().astype(np.float32) for name, value in head.state_dict().items()}
    g = Graph(int8=int8)

    def linear(x: str, name: str) -> str:
        return g.linear(x, np.ascontiguousarray(state[f"{name}.weight"].T), state[f"{name}.bias"])

    def conv(x: str, name: str, *, pad: int, stride: int = 1, groups: int = 1) -> str:
        kernel = state[f"{name}.weight"]
        return g.op(
            "Conv", x, g.constant(kernel), g.constant(state[f"{name}.bias"]),
            pads=[pad] * 4, strides=[stride] * 2, group=groups, kernel_shape=list(kernel.shape[2:]),
        )  # fmt: skip

    def unit(x: str) -> str:
        return g.op("LpNormalization", x, axis=-1, p=2)

    width, details = state["reduce.bias"].size, state["details.bias"].size
    size = g.op("Slice", g.op("Shape", "guide"), g.ints(0), g.ints(2))
    grid = g.op("Div", size, g.ints(GUIDE, GUIDE))  # h, w
    cls = g.op("Slice", "tokens", g.ints(0), g.ints(1), g.ints(0))  # (1, 1536)
    patches = g.op("Slice", "tokens", g.ints(1), g.ints(2**31), g.ints(0))  # (h*w, 1536)
    hidden = g.op("Gelu", linear(patches, "reduce"))  # (h*w, C)
    to_map = g.op("Concat", g.ints(1), grid, g.ints(width), axis=0)
    for index in range(len(head.mixers)):
        at = f"mixers.{index}"
        laid = g.op("Transpose", g.op("Reshape", hidden, to_map), perm=[0, 3, 1, 2])  # (1, C, h, w)
        around = conv(laid, f"{at}.around", pad=3, groups=width)
        y = g.op("Reshape", g.op("Transpose", around, perm=[0, 2, 3, 1]), g.ints(-1, width))
        y = g.layer_norm(y, state[f"{at}.norm.weight"], state[f"{at}.norm.bias"], 1e-5)
        y = linear(g.op("Gelu", linear(y, f"{at}.widen")), f"{at}.narrow")
        hidden = g.op("Add", hidden, y)
    # pixel_shuffle's channel order is (details, row, column); DepthToSpace in CRD mode is the same.
    spread = linear(hidden, "spread")
    spread = g.op("Reshape", spread, g.op("Concat", g.ints(1), grid, g.ints(-1), axis=0))
    x = g.op("DepthToSpace", g.op("Transpose", spread, perm=[0, 3, 1, 2]), blocksize=SCALE, mode="CRD")
    rgb = g.op("Cast", g.op("Transpose", "guide", perm=[2, 0, 1]), to=TensorProto.FLOAT)
    rgb = g.op("Sub", g.op("Mul", g.op("Unsqueeze", rgb, g.ints(0)), number(g, 1 / 255)), number(g, 0.5))
    rgb = g.op("Relu", conv(rgb, "guide", pad=1, stride=GUIDE // SCALE))
    x = g.op("Relu", g.op("Concat", x, rgb, axis=1))
    x = g.op("Relu", conv(x, "refine", pad=1))  # (1, F, 4h, 4w)

    def by_patch(x: str, channels: int) -> str:
        """(1, channels, 4h, 4w) to (h*w, 16, channels)."""
        shape = g.op("Concat", g.ints(channels), axis_split(g, grid), axis=0)
        x = g.op("Transpose", g.op("Reshape", x, shape), perm=[1, 3, 2, 4, 0])
        return g.op("Reshape", x, g.ints(-1, SCALE * SCALE, channels))

    weights = g.op("Softmax", by_patch(conv(x, "weights", pad=0), 9), axis=-1)
    return g.finish(
        "image_head",
        {
            "tokens": (TensorProto.FLOAT, ["tokens", TOKEN_WIDTH]),
            "guide": (TensorProto.UINT8, ["height", "width", 3]),
        },
        {
            "image": (unit(linear(cls, "image")), [1, "dim"]),
            "patches": (unit(linear(hidden, "patch")), ["patches", "dim"]),
            "upsampling": (weights, ["patches", SCALE * SCALE, 9]),
            "details": (by_patch(conv(x, "details", pad=0), details), ["patches", SCALE * SCALE, details]),
            "hidden": (hidden, ["patches", "width"]),
        },
    )


def number(g: Graph, value: float) -> str:
    """A float32 scalar."""
    return g.constant(np.array(value, np.float32))


def axis_split(g: Graph, grid: str) -> str:
    """The shape (h, 4, w, 4) from the grid (h, w)."""
    h = g.op("Slice", grid, g.ints(0), g.ints(1))
    w = g.op("Slice", grid, g.ints(1), g.ints(2))
    return g.op("Concat", h, g.ints(SCALE), w, g.ints(SCALE), axis=0)


def save_text_head(head: Head, path: Path) -> None:
    """Write the words' side: `weight` (384, D), `bias` (D,), `details` (D, F), all float32."""
    np.savez(
        path,
        weight=head.words.weight.detach().numpy().T,
        bias=head.words.bias.detach().numpy(),
        details=head.detail_words.weight.detach().numpy().T,
    )
