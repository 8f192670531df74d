"""PAMR, against the plain formula node by node."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovs_ros.steps.pamr import neighbour_weights, refine_with_pamr


def slow_neighbours(y, x, rows, cols):
    """The places of a node's neighbours, the nearest inside the grid."""
    return [
        (min(max(y + down, 0), rows - 1), min(max(x + across, 0), cols - 1))
        for down in (-1, 0, 1)
        for across in (-1, 0, 1)
        if (down, across) != (0, 0)
    ]


def slow_weights(guide):
    """(rows, cols, 8) in double precision."""
    rows, cols, _ = guide.shape
    guide = guide.astype(np.float64)
    weights = np.zeros((rows, cols, 8))
    for y in range(rows):
        for x in range(cols):
            colours = np.array([guide[p] for p in slow_neighbours(y, x, rows, cols)])  # (8, 3)
            deviation = np.concatenate([colours, guide[y, x][None]]).std(axis=0, ddof=1)
            exponent = -(np.abs(colours - guide[y, x]) / (0.1 * deviation + 1e-8)).mean(axis=1)
            weights[y, x] = np.exp(exponent - exponent.max())
            weights[y, x] /= weights[y, x].sum()
    return weights


def slow_pamr(scores, guide, steps):
    rows, cols, _ = scores.shape
    weights = slow_weights(guide)
    for _ in range(steps):
        new = np.zeros(scores.shape)
        for y in range(rows):
            for x in range(cols):
                around = [scores[place] for place in slow_neighbours(y, x, rows, cols)]
                new[y, x] = weights[y, x] @ np.array(around)
        scores = new
    return scores


def some_guide(rows, cols, seed=0):
    """An edge, and noise."""
    guide = 0.05 * np.random.default_rng(seed).random((rows, cols, 3))
    guide[:, cols // 2 :] += 0.7
    return guide.astype(np.float32)


def test_weights_are_those_of_the_formula():
    guide = some_guide(6, 9)
    got = neighbour_weights(guide).transpose(1, 2, 0)
    np.testing.assert_allclose(got, slow_weights(guide), atol=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_scores_are_those_of_the_formula(steps):
    guide = some_guide(6, 9)
    scores = np.random.default_rng(1).standard_normal((6, 9, 4)).astype(np.float32)
    got = refine_with_pamr(scores, guide, steps)
    assert got.flags.c_contiguous and got.dtype == np.float32
    np.testing.assert_allclose(got, slow_pamr(scores, guide, steps), atol=1e-3)


def test_scores_stay_on_their_side_of_an_edge():
    guide = some_guide(8, 12)
    scores = np.zeros((8, 12, 2), np.float32)
    scores[:, :6, 0] = scores[:, 6:, 1] = 1
    scores[3, 2] = 0.4, 0.6  # an odd one out
    best = refine_with_pamr(scores, guide).argmax(axis=2)
    assert (best[:, :6] == 0).all() and (best[:, 6:] == 1).all()


def test_a_plain_image_leaves_the_mean_of_the_neighbours():
    scores = np.random.default_rng(1).standard_normal((5, 6, 2)).astype(np.float32)
    got = refine_with_pamr(scores, np.full((5, 6, 3), 0.5, np.float32), 1)
    edged = np.pad(scores, ((1, 1), (1, 1), (0, 0)), mode="edge")
    nine = sum(edged[y : y + 5, x : x + 6] for y in range(3) for x in range(3))
    np.testing.assert_allclose(got, (nine - scores) / 8, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 4), st.integers(0, 10**6))
def test_it_is_a_mean_and_the_same_for_all_words(rows, cols, words, seed):
    rng = np.random.default_rng(seed)
    guide = some_guide(rows, cols, seed)
    scores = rng.standard_normal((rows, cols, words)).astype(np.float32)
    got = refine_with_pamr(scores, guide)
    assert got.max() <= scores.max() + 1e-4 and got.min() >= scores.min() - 1e-4
    turned = rng.permutation(words)
    np.testing.assert_array_equal(refine_with_pamr(scores[..., turned], guide), got[..., turned])
    constant = np.full_like(scores, -2.5)
    np.testing.assert_allclose(refine_with_pamr(constant, guide), constant, rtol=1e-5)
