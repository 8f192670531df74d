"""Generic negative words: which are taken, and that a word list does not paint everything."""

from dataclasses import replace

import numpy as np
import pytest
from fakes import ColorTextEncoder, color_image, color_segmenter

from ovs_ros.vocabulary.generic_negatives import GENERIC, NEAR, apart, read_negatives
from ovs_ros.vocabulary.prompts import embed
from ovs_ros.vocabulary.vocabulary import CategorySpec, Vocabulary, VocabularyError

COLOURS = ("red", "green", "blue")


def test_settings():
    assert read_negatives("off") == () and read_negatives("generic") == GENERIC
    assert read_negatives("sky,  dark   ground, sky") == ("sky", "dark ground")
    with pytest.raises(VocabularyError, match="a negative name"):
        read_negatives("sky,,grass")


def test_what_generic_negatives_win_is_unknown():
    segmenter = replace(color_segmenter(), negatives=COLOURS)
    words = segmenter.embed(Vocabulary.from_names(["yellow", "red"]))
    assert words.generic == words.negatives == ("green", "blue")
    result = segmenter.segment(color_image([["yellow", "blue", "red", "green"]]), words)
    assert result.labels[8, 8::32].tolist() == [0, 255, 1, 255]
    assert result.unknown_share == pytest.approx(0.5)


def test_negative_words_of_the_vocabulary_win():
    words = embed(Vocabulary.from_names(["red"], ["yellow"]), ColorTextEncoder(), negatives=COLOURS)
    assert words.generic == () and words.negatives == ("yellow",)


@pytest.mark.parametrize("category", [CategorySpec("Blue"), CategorySpec("sea", synonyms=("blue",))])
def test_a_negative_is_never_a_category_or_its_synonym(category):
    words = embed(Vocabulary.from_specs([category]), ColorTextEncoder(), negatives=COLOURS)
    assert words.generic == ("red", "green")


def test_negatives_near_to_a_category_are_left_out():
    # "dark blue" is embedded as "blue".
    words = embed(Vocabulary.from_names(["dark blue"]), ColorTextEncoder(), negatives=COLOURS)
    assert words.generic == ("red", "green")
    assert len(words.embeddings) == 3


@pytest.mark.parametrize("base", [0.0, 0.8])
def test_nearness_counts_from_the_cosine_of_unrelated_words(base):
    # Unit vectors that have the cosine `base` with each other; the last is the category.
    vectors = np.hstack((np.sqrt(1 - base) * np.eye(4), np.full((4, 1), np.sqrt(base)))).astype(np.float32)
    unrelated, category = vectors[:3], vectors[3:]
    across = vectors[2] - base * vectors[3]
    across /= np.linalg.norm(across)
    for nearness, kept in ((NEAR - 0.05, True), (NEAR + 0.05, False)):
        cosine = base + nearness * (1 - base)
        negative = cosine * vectors[3] + np.sqrt(1 - cosine**2) * across
        assert apart(category, negative[None], unrelated).tolist() == [kept]
