"""What an embedded vocabulary holds, and refuses."""

import numpy as np
import pytest

from ovs_ros.vocabulary.embedded import EmbeddedVocabulary
from ovs_ros.vocabulary.vocabulary import CategorySpec, Vocabulary

VOCABULARY = Vocabulary.from_names(["cat", "chair"], ["sky"]).replaced(
    ["chair", CategorySpec("desk", (), 0.25)]
)


def test_arrays_line_up_with_the_words() -> None:
    embedded = EmbeddedVocabulary(VOCABULARY, np.eye(3, 5, dtype=np.float32))
    assert embedded.ids.tolist() == [1, 2] and embedded.ids.dtype == np.uint16
    np.testing.assert_array_equal(embedded.thresholds, np.float32([np.nan, 0.25]))
    assert embedded.embeddings.dtype == embedded.thresholds.dtype == np.float32


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_its_own_and_read_only(order: str) -> None:
    given = np.array(np.eye(3, dtype=np.float32), order=order)
    embedded = EmbeddedVocabulary(VOCABULARY, given)
    given[:] = 0
    np.testing.assert_array_equal(embedded.embeddings, np.eye(3))
    assert embedded.embeddings.flags.c_contiguous
    for array in (embedded.embeddings, embedded.ids, embedded.thresholds):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        (np.eye(2), r"shape \(3, D\).*got \(2, 2\)"),
        (np.ones(3), r"shape \(3, D\).*got \(3,\)"),
        (np.ones((3, 0)), r"got \(3, 0\)"),
        (2 * np.eye(3), "unit L2 norm"),
        (np.full((3, 3), np.nan), "unit L2 norm"),
    ],
)
def test_refuses_other_arrays(embeddings: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EmbeddedVocabulary(VOCABULARY, embeddings)
