"""Whether sums of two 8-bit products fit into 16 bits: from a network's weights alone, on any machine."""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

PAIR = 128
"""The most that two adjacent weights of one sign may add up to: 255 * 128 = 32,640 fits into 16 bits."""
_PRODUCTS = {"DynamicQuantizeMatMul": 1, "MatMulInteger": 1, "MatMulIntegerToFloat": 1, "QLinearMatMul": 3}
"""Operators that multiply by an 8-bit matrix (inputs, outputs), and which of their inputs it is."""
_OTHERS = frozenset({"ConvInteger", "QLinearConv", "QGemm", "QAttention", "QEmbedLayerNormalization"})
"""Further 8-bit operators, for which the bound is not checked here."""


def saturating_products(model: onnx.ModelProto) -> list[str]:
    """Name the 8-bit matrices and kernels of a network that may saturate on a processor without VNNI.

    Which weights of a kernel are adjacent is up to ONNX Runtime: no two of them may be too large.

    Raises:
        ValueError: it has an 8-bit operator, or weights that come as an input, for which that is not known.
    """
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    scaled = {
        node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"
    }
    found = []
    for node in model.graph.node:
        if node.op_type in _OTHERS:
            raise ValueError(f"expected 8-bit operators out of {', '.join(_PRODUCTS)}, got {node.op_type}")
        if node.op_type == "Conv" and node.input[1] in scaled:
            name = scaled[node.input[1]]
            if name not in arrays or arrays[name].dtype != np.int8:
                raise ValueError(f"expected {node.op_type} to have a constant int8 kernel, got {name}")
            if np.abs(arrays[name].astype(np.int32)).max() > PAIR // 2:
                found.append(name)
        if node.op_type not in _PRODUCTS:
            continue
        name = node.input[_PRODUCTS[node.op_type]]
        if name not in arrays or arrays[name].ndim != 2:
            raise ValueError(f"expected {node.op_type} to have a constant matrix, got {name}")
        if arrays[name].dtype == np.int8 and largest_pair(arrays[name]) > PAIR:
            found.append(name)
    return found


def largest_pair(quantised: NDArray[np.int8]) -> int:
    """The largest magnitude of the sum of two adjacent weights (rows 2 i and 2 i + 1) of one sign.

    A weight alone counts too, with zero beside it.
    """
    wide = np.pad(quantised.astype(np.int32), ((0, len(quantised) % 2), (0, 0)))
    pairs = wide.reshape(-1, 2, wide.shape[1])
    # The other product of a pair may be zero, so that only weights of one sign make it worse.
    return int(max(pairs.clip(min=0).sum(axis=1).max(), -pairs.clip(max=0).sum(axis=1).min()))
