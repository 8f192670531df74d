"""The last step, at the very confidences where it decides."""

import numpy as np
import pytest

from ovs_ros.steps.labels import validate
from ovs_ros.steps.selection import Selection
from ovs_ros.vocabulary.vocabulary import CategorySpec, Vocabulary
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings

UNKNOWN = 255


def judged(columns, confidence, threshold, kind):
    """Of the words own (its threshold is 0.6), other and a negative, in the columns 0 to 2."""
    vocabulary = Vocabulary.from_specs([CategorySpec("own", threshold=0.6), "other"], ["negative"])
    words = WordEmbeddings(vocabulary, np.eye(3, dtype=np.float32))
    selection = Selection(np.arange(2), np.ones(2, np.float32), np.arange(3))
    return validate(np.array([columns], kind), np.array([confidence], np.uint8), selection, words, threshold)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32])
def test_a_pixel_at_its_threshold_keeps_its_name_and_one_below_does_not(kind):
    # 0.6 is 153/255, and 0.2 is 51/255.
    verdict = judged([0, 0, 1, 1, 2], [153, 152, 51, 50, 255], 0.2, kind)
    assert verdict.labels.dtype == np.uint8
    assert verdict.labels.tolist() == [[0, UNKNOWN, 1, UNKNOWN, UNKNOWN]]
    assert verdict.shares.tolist() == pytest.approx([0.2, 0.2])
    assert verdict.unknown_share == pytest.approx(0.6)


def test_a_threshold_between_two_levels_takes_the_next_whole_one():
    verdict = judged([1, 1, 1], [128, 127, 126], 127.5 / 255, np.uint8)
    assert verdict.labels.tolist() == [[1, UNKNOWN, UNKNOWN]]


def test_without_a_threshold_even_a_confidence_of_nothing_stays():
    assert judged([1, 1], [0, 255], 0.0, np.uint8).labels.tolist() == [[1, 1]]
