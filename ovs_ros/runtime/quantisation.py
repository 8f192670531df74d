"""8-bit weights for ONNX networks, such that no processor's arithmetic saturates.

Matrix products take unsigned 8-bit activations and signed 8-bit weights. Processors with VNNI, AMX or NEON
add the products in 32 bits. Those with AVX2 or AVX-512 alone (`vpmaddubsw`) first add two adjacent products,
of the inputs 2 i and 2 i + 1, in 16 bits, and saturate. `quantise_columns` keeps two such weights of one sign
small enough together: they add up to at most 128, and 255 * 128 < 2**15. That costs far less precision than
weights of 7 bits, and is as fast as any signed weights. Unsigned weights are slower on both kinds.

Convolutions take weights of 7 bits (-64 to 64): which of their weights are adjacent depends on the kernel
that ONNX Runtime chooses, and any two of these fit.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

MICROSOFT = "com.microsoft"
_LARGEST = 127

Float = NDArray[np.float32]


def quantise_columns(weight: Float) -> tuple[NDArray[np.int8], Float]:
    """Symmetric int8 with one scale a column, safe for 16-bit sums of two products.

    Args:
        weight: (I, O).

    Returns:
        (I, O) int8 and (O,) float32 such that quantised * scale approximates weight.
    """
    padded = np.pad(weight, ((0, len(weight) % 2), (0, 0)))
    pairs = np.abs(padded[0::2] + padded[1::2])  # Larger than both weights only where these have one sign.
    return _round_columns(weight, np.maximum(np.abs(weight).max(axis=0), pairs.max(axis=0)))


def quantise_products(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace products with constant matrices by ONNX Runtime's DynamicQuantizeMatMul.

    Activations are quantised at run time, one scale a tensor. A bias that is added goes into the operator.
    """
    arrays = _arrays(model.graph)
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    outputs = {value.name for value in model.graph.output}
    nodes: list[onnx.NodeProto] = []
    merged: set[str] = set()  # Outputs of additions that a product has taken over.
    names: dict[str, str] = {}  # Of quantised matrices, by what they were called.
    for node in model.graph.node:
        if node.output and node.output[0] in merged:
            continue
        if node.op_type != "MatMul" or arrays.get(node.input[1], np.zeros(())).ndim != 2:
            nodes.append(node)
            continue
        weight, (result,) = arrays[node.input[1]], node.output
        bias = ""
        after = users.get(result, [])
        if len(after) == 1 and after[0].op_type == "Add" and result not in outputs:
            other = next((name for name in after[0].input if name != result), "")
            if other in arrays and arrays[other].shape == (weight.shape[1],):
                bias, result = other, after[0].output[0]
                merged.add(result)
        # Exporters transpose a Linear layer's matrix and forget its name. Equal biases are stored once.
        name = f"{bias.removesuffix('bias')}weight"
        if not bias.endswith(".bias") or name in names.values():
            name = f"{node.input[1]}_8"
        name = names.setdefault(node.input[1], name)
        quantised, scale = quantise_columns(weight)
        constants: dict[str, NDArray[Any]] = {
            name: quantised,
            f"{name}_scale": scale,
            f"{name}_zero": np.zeros(len(scale), np.int8),
        }
        _add_constants(model.graph, constants)
        inputs = [node.input[0], *constants, bias]
        nodes.append(helper.make_node("DynamicQuantizeMatMul", inputs, [result], node.name, domain=MICROSOFT))
    return _finish(model, nodes)


def store_in_8_bits(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store constant matrices and tables in int8, and widen them before they are used.

    For networks whose result must not depend on what else shares a batch. Recent versions of ONNX Runtime
    fuse the two into MatMulNBits, which quantises activations row by row and saturates on no processor;
    `open_session` with `widen` keeps them from it.
    """
    arrays = _arrays(model.graph)
    nodes: list[onnx.NodeProto] = []

    def add(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    for node in model.graph.node:
        place = {"MatMul": 1, "Gather": 0}.get(node.op_type)
        name = "" if place is None else node.input[place]
        array = arrays.get(name, np.zeros(()))
        if array.ndim != 2 or array.dtype != np.float32:
            nodes.append(node)
        elif node.op_type == "MatMul":
            quantised, scale = _round_columns(array, np.abs(array).max(axis=0))
            _add_constants(model.graph, {f"{name}_8": quantised, f"{name}_scale": scale})
            wide = add("DequantizeLinear", [f"{name}_8", f"{name}_scale"], f"{name}_wide", axis=1)
            add("MatMul", [node.input[0], wide], node.output[0])
        else:
            quantised, scale = _round_columns(array.T, np.abs(array).max(axis=1))
            _add_constants(model.graph, {f"{name}_8": quantised.T, f"{name}_scale": scale[:, None]})
            rows = add("Gather", [f"{name}_8", node.input[1]], f"{name}_rows")
            rows = add("Cast", [rows], f"{name}_wide", to=TensorProto.FLOAT)
            scales = add("Gather", [f"{name}_scale", node.input[1]], f"{name}_scales")
            add("Mul", [rows, scales], node.output[0])
    return _finish(model, nodes)


def quantise_convolutions(
    path: Path, inputs: Iterable[Mapping[str, NDArray[Any]]], kept: Sequence[str] = ()
) -> None:
    """Quantise a network's convolutions, and what is added and clipped between them, to 8 bits.

    Activations have fixed scales, from their least and largest values over the inputs; weights have one
    scale an output channel.

    Args:
        path: of a network in float32, written over.
        inputs: typical ones, by name.
        kept: parts of the names of nodes that stay in float32.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        given = iter(inputs)

        def get_next(self) -> Any:
            return next(self.given, None)

    with TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(path, prepared, skip_symbolic_shape=True)
        nodes = onnx.load(prepared, load_external_data=False).graph.node
        quantization.quantize_static(
            prepared,
            path,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            op_types_to_quantize=["Conv", "Add", "Clip"],
            nodes_to_exclude=[node.name for node in nodes if any(part in node.name for part in kept)],
            calibrate_method=quantization.CalibrationMethod.MinMax,
        )


def _round_columns(weight: Float, largest: Float) -> tuple[NDArray[np.int8], Float]:
    scale = (np.maximum(largest, 1e-12) / _LARGEST).astype(np.float32)
    return np.round(weight / scale).astype(np.int8), scale


def _arrays(graph: onnx.GraphProto) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def _add_constants(graph: onnx.GraphProto, arrays: dict[str, NDArray[Any]]) -> None:
    there = {tensor.name for tensor in graph.initializer}
    graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(array), name)
        for name, array in arrays.items()
        if name not in there
    )


def _finish(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    """Give a model its new nodes, and drop constants that none of them reads."""
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input} | {value.name for value in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    if MICROSOFT not in {entry.domain for entry in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    onnx.checker.check_model(model)
    return model
