"""Tiny random ONNX image encoders of the layouts that a second encoder may have."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, UINT8 = TensorProto.FLOAT, TensorProto.UINT8


def save_encoder(
    path: Path,
    *,
    size: tuple[int | str, int | str] = (64, 64),
    stride: int = 16,
    channels: int = 8,
    first: bool = True,
    kind: int = FLOAT,
    layout: str = "nchw",
    prefix: int = 1,
) -> np.ndarray:
    """Write a network of one convolution, patch by patch.

    Args:
        path: gets the file.
        size: (H, W) of the input; a text leaves a side open.
        stride: a patch's side.
        channels: C of the map.
        first: whether the input is (1, 3, H, W) or (1, H, W, 3).
        kind: FLOAT or UINT8.
        layout: of the map: 'nchw', 'nhwc' or 'tokens' (with `prefix` tokens of zeros first).
        prefix: see `layout`.

    Returns:
        (C, 3, stride, stride) float32, the convolution's kernel.
    """
    kernel = np.random.default_rng(0).standard_normal((channels, 3, stride, stride)).astype(np.float32)
    kernel /= stride
    constants = [numpy_helper.from_array(kernel, "kernel")]
    nodes = [helper.make_node("Cast", ["pixels"], ["real"], to=FLOAT)]
    at = "real"
    if not first:
        nodes.append(helper.make_node("Transpose", [at], ["chw"], perm=[0, 3, 1, 2]))
        at = "chw"
    nodes.append(helper.make_node("Conv", [at, "kernel"], ["conv"], strides=[stride, stride]))
    at = "conv"
    if layout != "nchw":
        nodes.append(helper.make_node("Transpose", [at], ["hwc"], perm=[0, 2, 3, 1]))
        at = "hwc"
    if layout == "tokens":
        constants.append(numpy_helper.from_array(np.array([1, -1, channels]), "shape"))
        constants.append(numpy_helper.from_array(np.zeros((1, prefix, channels), np.float32), "prefix"))
        nodes.append(helper.make_node("Reshape", [at, "shape"], ["rows"]))
        nodes.append(helper.make_node("Concat", ["prefix", "rows"], ["tokens"], axis=1))
        at = "tokens"
    nodes.append(helper.make_node("Identity", [at], ["map"]))
    nodes.append(helper.make_node("GlobalAveragePool", ["conv"], ["pooled"]))
    shape = [1, 3, *size] if first else [1, *size, 3]
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("pixels", kind, shape)],
        [helper.make_tensor_value_info("map", FLOAT, None)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, path)
    return kernel


def add_output(path: Path, name: str) -> None:
    """Give a file's network one more output."""
    model = onnx.load(path)
    model.graph.output.append(helper.make_tensor_value_info(name, FLOAT, None))
    onnx.save(model, path)


def keep_output(path: Path, name: str) -> None:
    """Leave a file's network this output alone."""
    model = onnx.load(path)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(name, FLOAT, None))
    onnx.save(model, path)
