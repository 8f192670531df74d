import numpy as np

from ovs_ros.vocabulary.vocabulary import Vocabulary
from ovs_ros.vocabulary.word_embeddings import SKETCHED_FROM, WordEmbeddings, draw_sketch


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def test_products_with_a_sketch_are_cosines_but_for_a_summand():
    rng = np.random.default_rng(0)
    # Words that lie in few dimensions, so that the sketch loses nothing.
    embeddings = unit(rng.normal(size=(300, 8)) @ rng.normal(size=(8, 64)))
    part = unit(rng.normal(size=64))
    sketch = draw_sketch(embeddings, 8)
    difference = embeddings[sketch.rows] @ part - sketch.words @ (part @ sketch.axes)
    np.testing.assert_allclose(difference, difference[0], atol=1e-5)
    np.testing.assert_allclose(sketch.axes.T @ sketch.axes, np.eye(8), atol=1e-5)


def test_a_sketch_keeps_the_axes_of_the_largest_variance():
    rng = np.random.default_rng(1)
    embeddings = unit(rng.normal(size=(500, 6)) * [4, 3, 2, 0.1, 0.1, 0.1])
    sketch = draw_sketch(embeddings, 3)
    assert sketch.words.var(axis=0).sum() > 0.99 * embeddings.var(axis=0).sum()


def test_clusters_hold_every_word_once_and_words_that_are_near():
    rng = np.random.default_rng(3)
    kinds = unit(rng.normal(size=(20, 16)))
    embeddings = unit(np.repeat(kinds, 100, axis=0) + 0.05 * rng.normal(size=(2000, 16)))
    sketch = draw_sketch(embeddings, 16)
    assert sorted(sketch.rows) == list(range(2000)) and sketch.ends[-1] == 2000
    sizes = np.diff(sketch.ends, prepend=0)
    cluster = np.repeat(np.arange(len(sizes)), sizes)
    for centre, kind in ((c, sketch.rows[cluster == c] // 100) for c in np.flatnonzero(sizes)):
        assert (kind == kind[0]).all()
        found = ((sketch.words - sketch.centres[centre]) ** 2).sum(axis=1).argmin()
        assert sketch.rows[found] // 100 == kind[0]


def test_large_vocabularies_have_a_sketch_of_their_categories():
    rng = np.random.default_rng(2)
    embeddings = unit(rng.normal(size=(SKETCHED_FROM + 2, 80)))
    names = [f"word {i}" for i in range(SKETCHED_FROM)]
    large = WordEmbeddings(Vocabulary.from_names(names, ["sky", "shadow"]), embeddings)
    assert large.sketch is not None and large.sketch.words.shape == (SKETCHED_FROM, 64)
    assert not large.sketch.words.flags.writeable and not large.sketch.axes.flags.writeable
    small = WordEmbeddings(Vocabulary.from_names(names[:-1]), embeddings[: SKETCHED_FROM - 1])
    assert small.sketch is None


def test_seen_names_are_marked_whatever_their_spelling():
    vocabulary = Vocabulary.from_names(["Night  Stand", "quasar"], ["wall"])
    words = WordEmbeddings(vocabulary, np.eye(3, dtype=np.float32), frozenset({"night stand", "wall"}))
    assert words.seen.tolist() == [True, False] and not words.seen.flags.writeable
