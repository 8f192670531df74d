"""Prediction sets: exact cases by hand, and the promise on exchangeable images."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovs_ros.evaluation.conformal import cover, fit_limit, image_score, softmax


def image(rng, positions=200, names=5):
    """An image of its own difficulty: positions of one image have more in common than those of two."""
    clear = rng.uniform(0.2, 4)
    truth = rng.integers(0, names, positions)
    logits = rng.normal(0, 1, (positions, names)).astype(np.float32)
    logits[np.arange(positions), truth] += clear
    return softmax(logits), truth


def test_softmax_adds_up_to_one_and_keeps_large_logits_finite():
    shares = softmax(np.array([[1000.0, 1000.0], [0.0, -1000.0]], np.float32))
    np.testing.assert_allclose(shares, [[0.5, 0.5], [1, 0]])


def test_an_image_is_scored_by_its_share_of_positions():
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]], np.float32)
    truth = np.array([0, 0, 0, 1])  # scores 0.1, 0.2, 0.7, 0.6
    assert image_score(probabilities, truth, 0.25) == pytest.approx(0.6)
    assert image_score(probabilities, truth, 0.5) == pytest.approx(0.2)
    assert image_score(probabilities, truth, 0.01) == pytest.approx(0.7)


def test_the_rank_of_the_quantile():
    scores = [0.5, 0.1, 0.9, 0.3, 0.7, 0.2, 0.4, 0.8, 0.6]
    assert fit_limit(scores, 0.1) == 0.9  # the 9th of 9
    assert fit_limit(scores, 0.2) == 0.8
    assert fit_limit(scores, 0.5) == 0.5
    assert fit_limit(scores, 0.05) == 1.0  # it takes 19 images
    assert fit_limit([], 0.5) == 1.0


def test_sets_by_hand():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.4, 0.35, 0.25]], np.float32)
    at = cover(probabilities, np.array([1, 2]), 0.7)
    assert at == (0, pytest.approx((1 + 2) / 2))
    at = cover(probabilities, np.array([1, 2]), 0.8)
    assert at == (1, pytest.approx((2 + 3) / 2))
    assert cover(probabilities, np.array([0, 0]), 1.0)[1] == 3


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.05, 0.1, 0.3]))
def test_an_images_own_score_covers_it_and_nothing_less_does(seed, alpha):
    probabilities, truth = image(np.random.default_rng(seed))
    score = image_score(probabilities, truth, alpha)
    assert cover(probabilities, truth, score)[0] >= 1 - alpha
    assert cover(probabilities, truth, np.nextafter(score, 0))[0] < 1 - alpha


@pytest.mark.parametrize("alpha", [0.1, 0.2])
def test_new_images_are_covered_as_promised(alpha):
    """Over many draws of all images, a new one is covered with probability 1 - alpha, and hardly more."""
    rng = np.random.default_rng(0)
    count, draws = 39, 600
    covered = 0
    for _ in range(draws):
        images = [image(rng, positions=40, names=3) for _ in range(count + 1)]
        q = fit_limit([image_score(*one, alpha) for one in images[:-1]], alpha)
        covered += cover(*images[-1], q)[0] >= 1 - alpha
    spread = 3 * np.sqrt(alpha * (1 - alpha) / draws)
    assert 1 - alpha - spread <= covered / draws <= 1 - alpha + 1 / (count + 1) + spread


@pytest.mark.parametrize("alpha", [0.0, 1.0, -1.0, 2.0, float("nan")])
def test_alpha_is_a_probability(alpha):
    with pytest.raises(ValueError, match="expected alpha above 0 and below 1"):
        fit_limit([0.1], alpha)
