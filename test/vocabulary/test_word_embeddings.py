"""What an embedded vocabulary holds, and refuses."""

import numpy as np
import pytest

from ovs_ros.vocabulary.vocabulary import CategorySpec, Vocabulary
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings

VOCABULARY = Vocabulary.from_names(["cat", "chair"], ["sky"]).replaced(
    ["chair", CategorySpec("desk", (), 0.25)]
)


def test_arrays_line_up_with_the_words() -> None:
    embedded = WordEmbeddings(VOCABULARY, np.eye(3, 5, dtype=np.float32))
    assert embedded.ids.tolist() == [1, 2] and embedded.ids.dtype == np.uint16
    np.testing.assert_array_equal(embedded.thresholds, np.float32([np.nan, 0.25]))
    assert embedded.embeddings.dtype == embedded.thresholds.dtype == np.float32


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_its_own_and_read_only(order: str) -> None:
    given = np.array(np.eye(3, dtype=np.float32), order=order)
    embedded = WordEmbeddings(VOCABULARY, given)
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
        WordEmbeddings(VOCABULARY, embeddings)


def test_prompts_are_seen_through_and_read_only() -> None:
    given = np.ones((3, 2, 5), np.float16)
    embedded = WordEmbeddings(VOCABULARY, np.eye(3, 5), prompts=given)
    assert embedded.prompts is not None and np.shares_memory(embedded.prompts, given)
    with pytest.raises(ValueError, match="read-only"):
        embedded.prompts[0] = 0
    given[0] = 0  # The giver's array stays as free as it was.


@pytest.mark.parametrize(
    "prompts",
    [
        np.ones((3, 5), np.float16),
        np.ones((2, 2, 5), np.float16),
        np.ones((3, 2, 4), np.float16),
        np.ones((3, 0, 5), np.float16),
        np.ones((3, 2, 5), np.float32),
    ],
)
def test_refuses_other_prompts(prompts: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected prompts of shape \(3, P, 5\) and dtype float16, got"):
        WordEmbeddings(VOCABULARY, np.eye(3, 5), prompts=prompts)
