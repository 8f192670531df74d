"""Resampling a position table."""

import numpy as np
import pytest

from ovs_ros.geometry.resample import bicubic_matrix, resample_grid


@pytest.mark.parametrize(("source", "target"), [(37, 21), (37, 37), (37, 60), (5, 1)])
def test_weights_of_every_target_add_up_to_one(source: int, target: int) -> None:
    np.testing.assert_allclose(bicubic_matrix(source, target).sum(axis=1), 1.0, atol=1e-6)


def test_same_size_changes_nothing() -> None:
    table = np.random.default_rng(0).standard_normal((7, 9, 3)).astype(np.float32)
    np.testing.assert_allclose(resample_grid(table, 7, 9), table, atol=1e-6)


def test_a_ramp_stays_a_ramp_inside() -> None:
    ramp = np.arange(37, dtype=np.float32)
    for target in (21, 60):
        centres = (np.arange(target) + 0.5) * 37 / target - 0.5
        inside = slice(target // 5, -(target // 5))
        np.testing.assert_allclose((bicubic_matrix(37, target) @ ramp)[inside], centres[inside], atol=0.05)


def test_shrinking_is_antialiased() -> None:
    checkerboard = np.tile([1.0, -1.0], 16).astype(np.float32)
    assert np.abs(bicubic_matrix(32, 8) @ checkerboard)[1:-1].max() < 0.05


def test_rows_and_columns_are_not_mixed_up() -> None:
    table = np.zeros((4, 6, 1), np.float32)
    table[:, 3:] = 1.0
    out = resample_grid(table, 2, 3)
    assert out.shape == (2, 3, 1)
    assert out[0, 2, 0] > 0.9 > 0.1 > out[0, 0, 0]
