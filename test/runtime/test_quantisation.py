"""8-bit products: no sum of two saturates on any processor, and results stay near those in float32."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from saturation import PAIR, largest_pair, saturating_products

from ovs_ros.encoders.embedded import MODELS
from ovs_ros.runtime.quantisation import (
    quantise_columns,
    quantise_products,
    store_in_8_bits,
)

SHAPES = arrays.array_shapes(min_dims=2, max_dims=2, max_side=9)
WEIGHTS = arrays.arrays(np.float32, SHAPES, elements=st.floats(-1e3, 1e3, width=32))


def saturating_product(x: NDArray[np.uint8], weight: NDArray[np.int8]) -> NDArray[np.int32]:
    """What `vpmaddubsw` makes of (N, I) times (I, O): sums of two products end at the limits of int16."""
    odd = len(weight) % 2
    x, weight = np.pad(x, ((0, 0), (0, odd))), np.pad(weight, ((0, odd), (0, 0)))
    products = x.astype(np.int32)[:, :, None] * weight.astype(np.int32)[None]  # (N, I, O)
    pairs = products.reshape(len(x), -1, 2, weight.shape[1]).sum(axis=2)
    return pairs.clip(-(2**15), 2**15 - 1).sum(axis=1)


def network(*nodes: onnx.NodeProto, ids: bool = False, **weights: NDArray) -> onnx.ModelProto:
    """A network from `x` to `y`, both two-dimensional."""
    kind, shape = (TensorProto.INT64, ["n"]) if ids else (TensorProto.FLOAT, ["n", "inputs"])
    graph = helper.make_graph(
        nodes, "test",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "outputs"])],
        [numpy_helper.from_array(value, name.replace("_", ".")) for name, value in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def linear(weight: NDArray[np.float32], bias: NDArray[np.float32]) -> onnx.ModelProto:
    product = helper.make_node("MatMul", ["x", "matrix"], ["product"])
    add = helper.make_node("Add", ["layer.bias", "product"], ["y"])
    return network(product, add, matrix=weight, layer_bias=bias)


def run(model: onnx.ModelProto, x: NDArray) -> NDArray[np.float32]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@given(WEIGHTS)
@example(np.full((4, 1), 3.0, np.float32))
@example(np.zeros((3, 2), np.float32))
def test_quantised_columns_are_near_and_never_saturate(weight: NDArray[np.float32]) -> None:
    quantised, scale = quantise_columns(weight)
    assert quantised.dtype == np.int8 and scale.shape == (weight.shape[1],)
    assert (np.abs(quantised * scale - weight) <= scale * 0.5001).all()
    assert largest_pair(quantised) <= PAIR
    # The largest activations against weights of one sign are the worst case.
    positive, negative = (((sign * quantised) > 0).astype(np.uint8) * 255 for sign in (1, -1))
    for x in (*positive.T, *negative.T):
        exact = x.astype(np.int32) @ quantised.astype(np.int32)
        np.testing.assert_array_equal(saturating_product(x[None], quantised)[0], exact)


def test_plain_8_bit_weights_would_saturate() -> None:
    weight = normal(64, 8)
    scale = np.abs(weight).max(axis=0) / 127
    plain = np.round(weight / scale).astype(np.int8)
    plain[:2, 0] = 127
    x = np.full((1, 64), 255, np.uint8)
    assert largest_pair(plain) == 254
    assert (saturating_product(x, plain) != x.astype(np.int32) @ plain.astype(np.int32)).any()


@pytest.mark.parametrize(
    ("pair", "sum_of_one_sign"),
    [((64, 64), 128), ((127, 2), 129), ((-64, -65), 129), ((127, -127), 127), ((-128, 0), 128), ((5,), 5)],
)
def test_largest_pair_counts_weights_of_one_sign(pair: tuple[int, ...], sum_of_one_sign: int) -> None:
    assert largest_pair(np.array(pair, np.int8)[:, None]) == sum_of_one_sign


def test_a_product_stays_near_float32_and_takes_its_bias_over() -> None:
    weight, bias, x = normal(64, 8), normal(8, seed=1), normal(5, 64, seed=2)
    model = quantise_products(linear(weight, bias))
    assert [node.op_type for node in model.graph.node] == ["DynamicQuantizeMatMul"]
    want = x @ weight + bias
    assert np.abs(run(model, x) - want).max() <= 0.02 * np.abs(want).max()


def test_this_processor_computes_the_same_as_exact_arithmetic() -> None:
    """Weights of one sign at the bound, and activations of 255: the worst case, bit by bit."""
    weight = np.tile(np.array([[1.0], [0.9]], np.float32), (32, 8)) * np.linspace(0.1, 1, 8, dtype=np.float32)
    quantised, scale = quantise_columns(weight)
    x = np.full((3, 64), 255.0, np.float32)  # Quantised to 255 with the scale 1 and the zero point 0.
    got = run(quantise_products(linear(weight, np.zeros(8, np.float32))), x)
    np.testing.assert_allclose(got[0], 255 * quantised.sum(axis=0, dtype=np.int32) * scale, rtol=1e-6)


def test_products_that_are_used_otherwise_stay_apart() -> None:
    """A product that another node reads too keeps its result, and products of two inputs stay in float32."""
    weight, bias, x = normal(6, 6), normal(6, seed=1), normal(4, 6, seed=2)
    model = network(
        helper.make_node("MatMul", ["x", "matrix"], ["product"]),
        helper.make_node("Add", ["product", "layer.bias"], ["sum"]),
        helper.make_node("Transpose", ["product"], ["turned"]),
        helper.make_node("MatMul", ["sum", "turned"], ["y"]),
        matrix=weight, layer_bias=bias,
    )  # fmt: skip
    want = run(model, x)
    got = quantise_products(model)
    kinds = [node.op_type for node in got.graph.node]
    assert kinds == ["DynamicQuantizeMatMul", "Add", "Transpose", "MatMul"]
    assert np.abs(run(got, x) - want).max() <= 0.05 * np.abs(want).max()


def test_layers_that_share_a_bias_keep_their_own_weights() -> None:
    """Exporters store equal biases once."""
    first, second, bias, x = normal(6, 6), normal(6, 6, seed=1), np.zeros(6, np.float32), normal(4, 6, seed=2)
    model = network(
        helper.make_node("MatMul", ["x", "a"], ["p"]),
        helper.make_node("Add", ["layer.bias", "p"], ["q"]),
        helper.make_node("MatMul", ["q", "b"], ["r"]),
        helper.make_node("Add", ["layer.bias", "r"], ["y"]),
        a=first, b=second, layer_bias=bias,
    )  # fmt: skip
    want = x @ first @ second
    assert np.abs(run(quantise_products(model), x) - want).max() <= 0.05 * np.abs(want).max()


def test_stored_weights_are_computed_with_in_float32() -> None:
    weight = normal(16, 8)
    x = normal(3, 16, seed=1)
    model = store_in_8_bits(network(helper.make_node("MatMul", ["x", "matrix"], ["y"]), matrix=weight))
    step = np.abs(weight).max() / 127
    assert np.abs(run(model, x) - x @ weight).max() <= 0.51 * step * np.abs(x).sum(axis=1).max()
    np.testing.assert_allclose(run(model, x)[:1], run(model, x[:1]), atol=1e-5)
    assert saturating_products(model) == []


def test_a_stored_table_gives_its_rows() -> None:
    table = normal(20, 8) * np.arange(1, 21, dtype=np.float32)[:, None]
    model = network(helper.make_node("Gather", ["table", "x"], ["y"]), ids=True, table=table)
    rows = run(store_in_8_bits(model), np.array([3, 19]))
    assert np.abs(rows - table[[3, 19]]).max(axis=1) / np.abs(table[[3, 19]]).max(axis=1) == pytest.approx(
        0, abs=0.5 / 126
    )


@pytest.mark.parametrize("file", sorted(MODELS.glob("*.onnx")), ids=lambda file: file.name)
def test_no_shipped_product_saturates(file: Path) -> None:
    assert saturating_products(onnx.load(file)) == []


def test_one_product_beyond_the_bound_is_found() -> None:
    model = quantise_products(linear(normal(64, 8), normal(8, seed=1)))
    matrix = model.graph.node[0].input[1]
    tensor = next(t for t in model.graph.initializer if t.name == matrix)
    changed = numpy_helper.to_array(tensor).copy()
    row, column = np.argwhere(np.abs(changed[1::2].astype(int) + changed[0::2]) < 127)[0]
    assert largest_pair(changed) <= PAIR
    changed[2 * row, column], changed[2 * row + 1, column] = 127, 2
    tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
    assert saturating_products(model) == [matrix]


def test_one_kernel_beyond_the_bound_is_found() -> None:
    model = onnx.load(MODELS / "image_encoder.onnx")
    scaled = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    kernels = [scaled[n.input[1]] for n in model.graph.node if n.op_type == "Conv" and n.input[1] in scaled]
    assert len(kernels) > 60
    tensor = next(t for t in model.graph.initializer if t.name == kernels[-1])
    changed = numpy_helper.to_array(tensor).copy()
    changed.flat[0] = 65
    tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
    assert saturating_products(model) == [kernels[-1]]


def test_an_operator_that_is_not_known_is_refused() -> None:
    model = network(helper.make_node("ConvInteger", ["x", "w"], ["y"]), w=np.ones((1, 1), np.int8))
    with pytest.raises(ValueError, match="got ConvInteger"):
        saturating_products(model)
    model = network(helper.make_node("MatMulInteger", ["x", "x"], ["y"]))
    with pytest.raises(ValueError, match="constant matrix"):
        saturating_products(model)
