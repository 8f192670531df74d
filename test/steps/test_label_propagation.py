"""Label propagation, against the plain formula with a dense solver."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovs_ros.steps import label_propagation
from ovs_ros.steps.label_propagation import affinities, propagate


def some_patches(height, width, seed=0, dim=8):
    """Patches of a few kinds, so that some are alike and some are not."""
    rng = np.random.default_rng(seed)
    kinds = rng.standard_normal((3, dim))
    patches = kinds[rng.integers(0, 3, (height, width))] + 0.4 * rng.standard_normal((height, width, dim))
    return (patches / np.linalg.norm(patches, axis=2, keepdims=True)).astype(np.float32)


def slow_affinities(patches, neighbours):
    """LPOSS's S, patch by patch, in double precision."""
    height, width, dim = patches.shape
    flat = patches.reshape(-1, dim).astype(np.float64)
    count = len(flat)
    weights = np.zeros((count, count))
    for i in range(count):
        cosines = flat @ flat[i]
        for j in np.argsort(-cosines, kind="stable")[:neighbours]:
            distance = np.hypot(i // width - j // width, i % width - j % width)
            weights[i, j] = max(cosines[j], 0) ** label_propagation.GAMMA * np.exp(
                -label_propagation.SIGMA * distance
            )
    weights += weights.T
    np.fill_diagonal(weights, 0)
    degree = weights.sum(axis=1)
    return weights / np.sqrt(np.outer(degree, degree))


def slow_propagation(scores, patches, alpha):
    """Divided by the solution for ones, as ours is."""
    words = scores.shape[2]
    matrix = np.eye(scores[..., 0].size) - alpha * slow_affinities(patches, scores[..., 0].size)
    right = np.concatenate([scores.reshape(-1, words), np.ones((len(matrix), 1))], axis=1)
    solution = np.linalg.solve(matrix, right)
    return (solution[:, :words] / solution[:, words:]).reshape(scores.shape)


@pytest.mark.parametrize("neighbours", [5, 20, 400])
def test_affinities_are_those_of_the_formula(neighbours):
    patches = some_patches(5, 7)
    got = affinities(patches, neighbours)
    np.testing.assert_allclose(got, slow_affinities(patches, neighbours), atol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.95])
def test_it_is_the_exact_solution(alpha):
    patches = some_patches(12, 15)
    scores = np.random.default_rng(1).standard_normal((12, 15, 6)).astype(np.float32)
    got = propagate(scores, patches, alpha)
    np.testing.assert_allclose(got, slow_propagation(scores, patches, alpha), atol=3e-3)


def test_scores_do_not_travel_without_alpha():
    scores = np.random.default_rng(1).standard_normal((4, 5, 3)).astype(np.float32)
    np.testing.assert_allclose(propagate(scores, some_patches(4, 5), 0.0), scores, rtol=1e-5)


def test_it_rights_an_odd_patch_among_its_kind():
    patches = np.zeros((4, 8, 4), np.float32)
    patches[:, :4, 0] = patches[:, 4:, 1] = 1
    scores = np.zeros((4, 8, 2), np.float32)
    scores[:, :4, 0] = scores[:, 4:, 1] = 1
    scores[1, 1] = 0.4, 0.6  # an odd one out
    best = propagate(scores, patches).argmax(axis=2)
    assert (best[:, :4] == 0).all() and (best[:, 4:] == 1).all()


def test_a_patch_like_no_other_keeps_its_scores():
    patches = np.zeros((1, 4, 4), np.float32)
    patches[0, :3, 0] = 1
    patches[0, 3, 1] = 1
    scores = np.arange(8, dtype=np.float32).reshape(1, 4, 2)
    np.testing.assert_allclose(propagate(scores, patches)[0, 3], scores[0, 3], rtol=1e-5)


def test_one_patch_alone():
    scores = np.ones((1, 1, 2), np.float32)
    np.testing.assert_allclose(propagate(scores, some_patches(1, 1)), scores)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(2, 6), st.integers(1, 5), st.integers(0, 10**6))
def test_it_is_a_mean_and_the_same_for_all_words(height, width, words, seed):
    rng = np.random.default_rng(seed)
    patches = some_patches(height, width, seed)
    scores = rng.standard_normal((height, width, words)).astype(np.float32)
    got = propagate(scores, patches)
    assert got.dtype == np.float32
    assert got.max() <= scores.max() + 1e-4 and got.min() >= scores.min() - 1e-4
    turned = rng.permutation(words)
    np.testing.assert_allclose(propagate(scores[..., turned], patches), got[..., turned], atol=1e-4)
    constant = np.full_like(scores, 3.5)
    np.testing.assert_allclose(propagate(constant, patches), constant, rtol=1e-4)
