"""Graphs that are written down by hand compute what they say."""

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from ovs_ros.training.build_image_encoder import IMAGENET_DEVIATION, IMAGENET_MEAN, fold_normalisation
from ovs_ros.training.onnx_graph import Graph, quantise_columns


@given(st.integers(1, 40), st.integers(1, 20), st.integers(0, 999))
def test_quantised_columns_are_within_half_a_step(rows: int, columns: int, seed: int) -> None:
    weight = np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)
    quantised, scale = quantise_columns(weight)
    assert quantised.dtype == np.int8 and scale.shape == (columns,)
    assert (np.abs(quantised * scale - weight) <= scale * 0.5001).all()


def test_a_column_of_zeros_stays_zero() -> None:
    quantised, scale = quantise_columns(np.zeros((3, 2), np.float32))
    assert np.isfinite(scale).all() and not quantised.any()


@pytest.mark.parametrize(("int8", "tolerance"), [(False, 1e-5), (True, 0.05)])
def test_linear_layer(int8: bool, tolerance: float) -> None:
    rng = np.random.default_rng(0)
    x, weight, bias = (rng.standard_normal(s).astype(np.float32) for s in ((5, 64), (64, 8), (8,)))
    g = Graph(int8=int8)
    y = g.linear("x", weight, bias)
    model = g.finish("test", {"x": (TensorProto.FLOAT, ["n", 64])}, {"y": (y, ["n", 8])})
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    got = session.run(None, {"x": x})[0]
    want = x @ weight + bias
    assert np.abs(got - want).max() <= tolerance * np.abs(want).max()


def test_folded_normalisation_equals_normalising_first() -> None:
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((4, 3, 2, 2)).astype(np.float32)
    bias = rng.standard_normal(4).astype(np.float32)
    pixels = rng.integers(0, 256, (3, 2, 2)).astype(np.float32)
    normalised = (pixels / 255.0 - IMAGENET_MEAN[:, None, None]) / IMAGENET_DEVIATION[:, None, None]
    folded_kernel, folded_bias = fold_normalisation(kernel, bias)
    np.testing.assert_allclose(
        np.einsum("ocyx,cyx->o", folded_kernel, pixels) + folded_bias,
        np.einsum("ocyx,cyx->o", kernel, normalised) + bias,
        atol=1e-4,
    )
