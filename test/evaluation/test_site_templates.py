"""The choice of templates, on classifiers whose best template is known."""

import numpy as np
import pytest

from ovs_ros.evaluation.site_templates import TemplateEntropies


def unit(rows):
    rows = np.asarray(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def entropy(logits):
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return -(shares * np.log(np.maximum(shares, 1e-30))).sum(axis=1)


def test_entropies_are_those_of_each_templates_softmax():
    rng = np.random.default_rng(0)
    classifiers, patches = unit(rng.normal(size=(3, 5, 8))), unit(rng.normal(size=(40, 8)))
    collected = TemplateEntropies(classifiers, categories=4, scale=7.0)  # the fifth word is a negative
    collected.add(patches[:25])
    collected.add(patches[25:])
    for template, words in enumerate(classifiers):
        logits = 7.0 * patches @ words.T
        best, each = logits.argmax(axis=1), entropy(logits)
        for category in range(4):
            assert collected.patches[template, category] == (best == category).sum()
            expected = each[best == category].sum()
            assert collected.entropy[template, category] == pytest.approx(expected, abs=1e-4)


def test_each_category_takes_the_template_that_is_surest_of_it():
    red, green, blue = np.eye(3, dtype=np.float32)
    between = unit(red + green)
    # The first template says red well and green badly, the second the other way round.
    classifiers = np.stack([[red, unit(green + 2 * blue)], [unit(red + 2 * blue), green]])
    collected = TemplateEntropies(classifiers, categories=2, scale=20.0)
    collected.add(np.stack([red, unit(4 * red + between), green, unit(4 * green + between)]))
    assert [list(places) for places in collected.choose(1)] == [[0], [1]]
    assert [list(places) for places in collected.choose(5)] == [[0, 1], [1, 0]]


def test_a_category_that_no_frame_shows_gets_no_template():
    words = np.eye(3, dtype=np.float32)
    collected = TemplateEntropies(np.stack([words, words]), categories=3, scale=20.0)
    collected.add(np.stack([words[0], words[2]]))
    assert [len(places) for places in collected.choose(2)] == [2, 0, 2]


def test_a_template_that_finds_only_the_clearest_examples_does_not_count():
    red, green, blue = np.eye(3, dtype=np.float32)
    generous, narrow = [red, unit(green + blue)], [unit(red - green), unit(2 * green + red)]
    patches = np.stack([red, *[unit(red + 0.9 * green)] * 9])
    collected = TemplateEntropies(np.stack([generous, narrow]), categories=2, scale=20.0)
    collected.add(patches)
    found = collected.patches[:, 0]
    assert found[0] == 10 and found[1] == 1
    assert list(collected.choose(2)[0]) == [0]


def test_templates_are_ranked_by_their_mean_entropy_and_half_of_the_most_patches_is_enough():
    collected = TemplateEntropies(np.zeros((3, 2, 4), np.float32), categories=2, scale=1.0)
    collected.patches[:] = [[10, 4], [10, 4], [5, 4]]
    collected.entropy[:] = [[4.0, 3.0], [6.0, 1.0], [2.5, 2.0]]  # of category 0 in the mean 0.4, 0.6, 0.5
    assert [list(places) for places in collected.choose(3)] == [[0, 2, 1], [1, 2, 0]]
    assert [list(places) for places in collected.choose(1)] == [[0], [1]]
