"""The guided filter, against the plain formula window by window."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovs_ros.steps.guided_filter import refine_with_guide


def slow_guided(scores, guide, radius, smoothness):
    """He, Sun and Tang's equations 17 to 19, in double precision."""
    rows, cols, words = scores.shape
    scores, guide = scores.astype(np.float64), guide.astype(np.float64)
    slopes, offsets = np.zeros((rows, cols, 3, words)), np.zeros((rows, cols, words))

    def window(y, x):
        return slice(max(y - radius, 0), y + radius + 1), slice(max(x - radius, 0), x + radius + 1)

    for y in range(rows):
        for x in range(cols):
            colours, values = guide[window(y, x)].reshape(-1, 3), scores[window(y, x)].reshape(-1, words)
            centred = colours - colours.mean(axis=0)
            variance = centred.T @ centred / len(colours) + smoothness * np.eye(3)
            slopes[y, x] = np.linalg.solve(variance, centred.T @ values / len(colours))
            offsets[y, x] = values.mean(axis=0) - colours.mean(axis=0) @ slopes[y, x]
    out = np.zeros(scores.shape)
    for y in range(rows):
        for x in range(cols):
            slope = slopes[window(y, x)].reshape(-1, 3, words).mean(axis=0)
            out[y, x] = guide[y, x] @ slope + offsets[window(y, x)].reshape(-1, words).mean(axis=0)
    return out


@pytest.mark.parametrize(
    ("shape", "radius", "smoothness"), [((7, 9, 2), 2, 1e-2), ((9, 6, 1), 4, 1e-3), ((5, 5, 40), 1, 1e-2)]
)
def test_scores_are_those_of_the_formula(shape, radius, smoothness):
    rng = np.random.default_rng(0)
    scores, guide = rng.standard_normal(shape), rng.random((*shape[:2], 3))
    got = refine_with_guide(scores.astype(np.float32), guide.astype(np.float32), radius, smoothness)
    assert got.flags.c_contiguous and got.dtype == np.float32
    np.testing.assert_allclose(got, slow_guided(scores, guide, radius, smoothness), atol=2e-3)


def test_a_blurred_border_goes_to_the_edge_of_the_image():
    guide = np.zeros((12, 16, 3), np.float32)
    guide[:, 8:] = 0.8
    scores = np.zeros((12, 16, 2), np.float32)
    scores[..., 1] = np.clip((np.arange(16) - 4) / 8, 0, 1)
    scores[..., 0] = 1 - scores[..., 1]
    before = np.abs(np.diff(scores[6, :, 1])).argmax()
    change = np.abs(np.diff(refine_with_guide(scores, guide)[6, :, 1]))
    assert before != 7 and change.argmax() == 7 and change[7] > 2 * np.delete(change, 7).max()


def test_a_plain_image_leaves_the_mean_of_window_means():
    scores = np.random.default_rng(1).standard_normal((9, 11, 2)).astype(np.float32)
    got = refine_with_guide(scores, np.full((9, 11, 3), 0.5, np.float32), 1)
    for _ in range(2):
        padded = np.pad(scores, ((1, 1), (1, 1), (0, 0)))
        inside = np.pad(np.ones((9, 11, 1)), ((1, 1), (1, 1), (0, 0)))
        scores, count = (
            sum(part[y : y + 9, x : x + 11] for y in range(3) for x in range(3)) for part in (padded, inside)
        )
        scores = scores / count
    np.testing.assert_allclose(got, scores, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 40), st.integers(0, 10**6))
def test_it_is_linear_and_the_same_for_all_words(rows, cols, words, seed):
    rng = np.random.default_rng(seed)
    guide = rng.random((rows, cols, 3)).astype(np.float32)
    scores = rng.standard_normal((rows, cols, words)).astype(np.float32)
    got = refine_with_guide(scores, guide)
    turned = rng.permutation(words)
    np.testing.assert_allclose(refine_with_guide(scores[..., turned], guide), got[..., turned], atol=1e-4)
    np.testing.assert_allclose(refine_with_guide(3 * scores + 2, guide), 3 * got + 2, atol=2e-2)
    constant = np.full_like(scores, 4.0)
    np.testing.assert_allclose(refine_with_guide(constant, guide), constant, rtol=1e-3)
