"""Cosines between two runs, and what they refuse."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_ros.runtime.parity import LEAST, Parity, ParityError, compare, fixed_picture, require, session_parity


def test_equal_arrays_agree() -> None:
    values = np.random.default_rng(0).standard_normal((2, 3, 5)).astype(np.float32)
    assert compare(values, values).least == pytest.approx(1.0)


def test_the_least_row_counts() -> None:
    values = np.ones((4, 3), np.float32)
    other = values.copy()
    other[2] = (1, -1, 0)
    parity = compare(other, values)
    assert parity.least == pytest.approx(0.0, abs=1e-12)
    assert parity.mean == pytest.approx(0.75)


def test_what_is_not_finite_never_agrees() -> None:
    values = np.ones((4, 3), np.float32)
    broken = values.copy()
    broken[1, 1] = np.nan
    assert compare(broken, values).least == -1.0
    broken[1, 1] = np.inf
    assert compare(broken, values).least == -1.0


def test_zeros_agree_with_zeros_only() -> None:
    zeros, ones = np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32)
    assert compare(zeros, zeros).least == 1.0
    assert compare(zeros, ones).least == -1.0


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="one shape"):
        compare(np.ones((1, 3)), np.ones((3, 1)))


def test_a_map_of_logits_agrees_as_a_whole() -> None:
    """A line of it in which a word is nowhere is noise, and so is its direction."""
    maps = np.random.default_rng(0).standard_normal((2, 6, 8)).astype(np.float32)
    maps[0, 3] = 1e-5
    near = maps + np.random.default_rng(1).normal(0, 1e-4, maps.shape).astype(np.float32)
    right, close, wrong = (
        SimpleNamespace(
            get_outputs=lambda: [SimpleNamespace(name="logits")], run=lambda names, inputs, out=out: [out]
        )
        for out in (maps, near, np.stack((maps[0], maps[1][::-1])))
    )
    assert session_parity(close, right, {})["logits"].least > LEAST["fp32"]
    assert session_parity(wrong, right, {})["logits"].least < 0.5


@given(st.floats(1e-3, 1e3), st.integers(0, 2**32 - 1))
def test_scale_does_not_matter(scale: float, seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal((3, 8))
    assert compare(scale * values, values).least == pytest.approx(1.0)


def test_refusal_says_the_figure_and_the_output() -> None:
    with pytest.raises(ParityError, match=r"0\.99.*0\.912345.*patches"):
        require({"image": Parity(1, 1), "patches": Parity(0.912345, 0.95)}, LEAST["fp16"], "this engine")
    require({"image": Parity(0.9991, 0.9995)}, LEAST["fp16"], "this engine")


def test_the_picture_is_always_the_same_and_not_flat() -> None:
    picture = fixed_picture(48, 64)
    assert picture.shape == (48, 64, 3) and picture.dtype == np.uint8
    assert np.array_equal(picture, fixed_picture(48, 64))
    assert picture.std(axis=(0, 1)).min() > 20
