"""Thousands of words in chunks give what all of them at once give."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from fakes import color_segmenter
from hypothesis import given
from hypothesis import strategies as st

import ovs_ros.segmenter
from ovs_ros.encoders.features import Features
from ovs_ros.encoders.heads import CosineHead
from ovs_ros.options import SegmenterOptions
from ovs_ros.runtime.finite import NotFiniteError
from ovs_ros.steps import chunked_decoder
from ovs_ros.steps.chunked_decoder import decode_in_chunks
from ovs_ros.steps.decoder import decode
from ovs_ros.vocabulary.category import Category
from ovs_ros.vocabulary.vocabulary import Vocabulary
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings

pytestmark = pytest.mark.fault(
    "thousands of words without selection", "the same labels, in memory that does not grow with them"
)
EVERYTHING = SegmenterOptions(select=False)


def features_of(rows, cols, valid=(1.0, 1.0)):
    embeddings = np.zeros((rows, cols, 4), np.float32)
    return Features(embeddings[0, 0], embeddings, CosineHead(embeddings, 1.0), valid, 1.0)


def assert_same(logits, features, size):
    expected, sure = decode(logits, features, size)
    indices, confidence = decode_in_chunks(
        lambda words: np.ascontiguousarray(logits[..., words]), logits.shape[2], features, size
    )
    assert indices.dtype == expected.dtype and confidence.dtype == np.uint8
    np.testing.assert_array_equal(indices, expected)
    assert np.abs(confidence.astype(int) - sure).max() <= 1


@pytest.mark.parametrize("at_once", [1, 100, 1 << 22])
@pytest.mark.parametrize("spread", [0.5, 5.0, 50.0])
@given(
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(1, 40),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.integers(0, 2**32 - 1),
)
def test_any_logits(at_once, spread, rows, cols, words, size, seed):
    logits = np.random.default_rng(seed).standard_normal((rows, cols, words)).astype(np.float32) * spread
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunked_decoder, "AT_ONCE", at_once)
        patch.setattr(chunked_decoder, "_CORNERS_AT_ONCE", at_once)
        assert_same(logits, features_of(rows, cols), size)


def test_a_grid_that_the_image_covers_in_part(monkeypatch):
    monkeypatch.setattr(chunked_decoder, "AT_ONCE", 300)
    logits = np.random.default_rng(0).standard_normal((6, 7, 300)).astype(np.float32) * 3
    assert_same(logits, features_of(8, 8, (0.7, 0.8)), (61, 83))


def huge(segmenter, count, size=(120, 160), seed=0):
    dim = segmenter.model.image_encoder.dim
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count + 3, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vocabulary = Vocabulary(
        tuple(Category(f"thing {i}", id=i) for i in range(count)), negatives=("a", "b", "c")
    )
    image = rng.integers(0, 256, (size[0] // 8, size[1] // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    return image, WordEmbeddings(vocabulary, vectors)


@pytest.mark.parametrize("count", [200, 3000])
def test_the_segmenter_gives_the_same_labels(monkeypatch, count):
    segmenter = color_segmenter()
    image, words = huge(segmenter, count)
    whole = segmenter.segment(image, words, EVERYTHING)
    chunked = []

    def counted(*arguments):
        chunked.append(True)
        return decode_in_chunks(*arguments)

    monkeypatch.setattr(ovs_ros.segmenter, "decode_in_chunks", counted)
    monkeypatch.setattr(ovs_ros.segmenter, "AT_ONCE", 1000)
    monkeypatch.setattr(chunked_decoder, "AT_ONCE", 10_000)
    parts = segmenter.segment(image, words, EVERYTHING)
    assert chunked
    np.testing.assert_array_equal(parts.labels, whole.labels)
    assert parts.selected_names == whole.selected_names
    np.testing.assert_array_equal(parts.shares, whole.shares)
    assert np.abs(parts.confidence.astype(int) - whole.confidence).max() <= 1
    for options in (
        replace(EVERYTHING, postprocess="pamr"),
        replace(EVERYTHING, validation="reject"),
        SegmenterOptions(),
    ):
        chunked.clear()
        segmenter.segment(image, words, options)
        assert not chunked


def test_memory_does_not_grow_with_the_words(monkeypatch):
    monkeypatch.setattr(ovs_ros.segmenter, "AT_ONCE", 1 << 16)
    monkeypatch.setattr(chunked_decoder, "AT_ONCE", 1 << 16)
    segmenter = color_segmenter()
    peaks = []
    for count in (1000, 8000):
        image, words = huge(segmenter, count, (160, 240))  # 600 nodes
        tracemalloc.start()
        segmenter.segment(image, words, EVERYTHING)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 3e6  # All logits at once: 19 MB, and as much again beside.


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(monkeypatch, value):
    monkeypatch.setattr(ovs_ros.segmenter, "AT_ONCE", 1000)
    segmenter = color_segmenter()
    image, words = huge(segmenter, 500)
    align = ovs_ros.segmenter.align

    def broken(*arguments, **more):
        logits = align(*arguments, **more)
        logits[2, 3, -1] = value
        return logits

    monkeypatch.setattr(ovs_ros.segmenter, "align", broken)
    with pytest.raises(NotFiniteError):
        segmenter.segment(image, words, EVERYTHING)
