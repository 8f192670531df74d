"""Evidence is what a loop over categories and prototypes gives."""

import numpy as np

from ovs_ros.vocabulary.prototypes import MOST, Prototypes

RNG = np.random.default_rng(0)


def made(weight: float = 1.0, floor: float = -MOST) -> Prototypes:
    """Three categories with 2, 1 and 3 prototypes; the third has two negative ones."""
    return Prototypes(
        RNG.standard_normal((5, 8)).astype(np.float32),
        RNG.standard_normal(8).astype(np.float32),
        np.array([0, 2, 3]),
        np.array([1, 4, 6]),
        np.array([6]),
        np.array([2]),
        np.zeros(3, bool),
        weight,
        floor=floor,
    )


def test_evidence_is_the_best_prototype_less_what_speaks_against() -> None:
    given = made(weight=0.5, floor=-3.0)
    tokens = 5 * RNG.standard_normal((4, 6, 5)).astype(np.float32)
    scores = tokens @ given.weights + given.biases
    for category, own in enumerate(([0, 1], [2], [3, 4, 5])):
        expected = scores[..., own].max(axis=-1)
        if category == 2:
            expected = expected - np.maximum(scores[..., 6:].max(axis=-1), 0)
        np.testing.assert_allclose(
            given.evidence(tokens)[..., category], 0.5 * expected.clip(-3, MOST), rtol=1e-4, atol=1e-4
        )


def test_arrays_are_read_only() -> None:
    given = made()
    assert not any(array.flags.writeable for array in (given.weights, given.biases, given.classes))
