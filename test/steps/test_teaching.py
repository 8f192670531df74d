"""Categories that were taught by pointing: they match what was shown, and leave the rest alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import color_image, color_segmenter

from ovs_ros.load import load
from ovs_ros.vocabulary.cache import EmbeddingCache
from ovs_ros.vocabulary.category import CategorySpec
from ovs_ros.vocabulary.errors import VocabularyError
from ovs_ros.vocabulary.examples import Example, encoded
from ovs_ros.vocabulary.vocabulary import Vocabulary

SQUARES = color_image([["red", "blue"], ["green", "yellow"]])
OTHERS = color_image([["yellow", "green", "red"], ["blue", "blue", "red"]])
BLUE = (32, 0, 64, 32)


def labels(specs: list, image: np.ndarray = OTHERS, negatives: tuple = (), **options) -> list[list[int]]:
    """The label in the middle of each square of 32 pixels."""
    segmenter = color_segmenter(**options)
    words = segmenter.embed(Vocabulary.from_specs(specs, negatives))
    return segmenter.segment(image, words).labels[16::32, 16::32].tolist()


def mug(where: dict, *more: Example) -> CategorySpec:
    return CategorySpec("my mug", examples=(Example(encoded(SQUARES), **where), *more), examples_only=True)


MASK = np.zeros((64, 64), np.uint8)
MASK[:32, 32:] = 255


@pytest.mark.parametrize("select", [True, False])
@pytest.mark.parametrize("where", [{"box": BLUE}, {"points": ((40, 9),)}, {"mask": encoded(MASK)}])
def test_a_name_without_meaning_matches_what_was_shown(where: dict, select: bool) -> None:
    found = labels(["red", "green", "yellow", mug(where)], select=select)
    assert found == [[2, 1, 0], [3, 3, 0]]


def test_the_order_of_the_words_does_not_matter() -> None:
    assert labels([mug({"box": BLUE}), "red", "green", "yellow"]) == [[3, 2, 1], [0, 0, 1]]


def test_examples_alone_are_enough() -> None:
    image = encoded(SQUARES)
    boxes = {"a": (0, 0, 32, 32), "b": BLUE, "c": (0, 32, 32, 64), "d": (32, 32, 64, 64)}
    specs = [
        CategorySpec(name, examples=(Example(image, box=box),), examples_only=True)
        for name, box in boxes.items()
    ]
    assert labels(specs) == [[3, 2, 0], [1, 1, 0]]


def test_negative_words_compete_with_what_was_taught() -> None:
    assert labels([mug({"box": BLUE})], negatives=("red", "green", "yellow")) == [[255] * 3, [0, 0, 255]]


def test_a_word_and_examples_work_together() -> None:
    """The word 'azure' says nothing to the encoder, so that another word would win without the example."""
    assert labels(["red", "green", "yellow", "azure"])[1][:2] != [3, 3]
    shown = tuple(
        Example(encoded(image), box=box) for image, box in ((SQUARES, BLUE), (OTHERS, (0, 32, 64, 64)))
    )
    azure = CategorySpec("azure", examples=shown)
    image = color_image([["blue", "red"], ["yellow", "blue"]])
    assert labels(["red", "green", "yellow", azure], image) == [[3, 0], [2, 3]]


def test_negative_examples_take_back_what_examples_gave() -> None:
    both = {"box": (0, 0, 64, 32)}  # red and blue
    words = ["green", "yellow", mug(both)]
    assert labels(words)[0][2] == 2 and labels(words)[1][0] == 2
    against = Example(encoded(SQUARES), box=(0, 0, 32, 32), negative=True)
    found = labels(["green", "yellow", mug(both, against)])
    assert found[0][2] != 2 and found[1][:2] == [2, 2]


def test_words_without_examples_are_as_before() -> None:
    segmenter = color_segmenter()
    words = segmenter.embed(Vocabulary.from_names(["red", "blue"]))
    assert words.prototypes is None


def test_what_was_taught_counts_as_seen_and_not_as_wordless_unless_told() -> None:
    words = color_segmenter().embed(
        Vocabulary.from_specs(["red", CategorySpec("cup", examples=(Example(encoded(SQUARES), box=BLUE),))])
    )
    assert words.seen.tolist() == [False, True]
    assert words.prototypes is not None and words.prototypes.wordless.tolist() == [False]


def test_the_message_names_the_category() -> None:
    with pytest.raises(VocabularyError, match="'my mug': expected a box inside the image of 64 x 64"):
        labels([mug({"box": (0, 0, 65, 1)})])


def test_images_are_encoded_once_and_cached_on_disk(tmp_path: Path) -> None:
    encodings = []
    first, second = (
        replace(color_segmenter(lambda: encodings.append(1)), cache=EmbeddingCache(tmp_path)) for _ in "ab"
    )
    vocabulary = Vocabulary.from_specs(
        ["red", mug({"box": BLUE}, Example(encoded(SQUARES), points=((40, 8),)))]
    )
    taught = first.embed(vocabulary).prototypes
    assert len(encodings) == 1 and taught is not None
    again = second.embed(vocabulary.added(["green"])).prototypes
    assert len(encodings) == 1 and again is not None
    np.testing.assert_array_equal(taught.weights, again.weights)


def test_the_same_examples_teach_the_same() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    spec = CategorySpec("noise", examples=(Example(encoded(noise), box=(0, 0, 64, 96)),), examples_only=True)
    first, second = (color_segmenter().embed(Vocabulary.from_specs(["red", spec])).prototypes for _ in "ab")
    assert first is not None and second is not None
    np.testing.assert_array_equal(first.weights, second.weights)


def test_the_embedded_model_learns_a_texture_from_one_box() -> None:
    """It has hidden features, and a head that upsamples."""
    rng = np.random.default_rng(0)
    image = np.full((240, 320, 3), 120, np.uint8)
    image[:, 160:] = rng.integers(0, 256, (240, 160, 1), np.uint8)
    spec = CategorySpec(
        "bay 7", examples=(Example(encoded(image), box=(160, 0, 320, 240)),), examples_only=True
    )
    segmenter = replace(load("stream"), cache=None)
    words = segmenter.embed(Vocabulary.from_specs(["wall", spec, "floor"]))
    assert words.prototypes is not None and len(words.prototypes.weights) == 128
    for shown, half in ((image, np.s_[:, 180:]), (image[:, ::-1], np.s_[:, :140])):
        found = segmenter.segment(np.ascontiguousarray(shown), words).labels == 1
        assert found[half].mean() > 0.9 and found.mean() < 0.6
