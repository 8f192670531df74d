from dataclasses import replace

import numpy as np
import pytest
from fakes import ColorImageEncoder, ColorTextEncoder, color_image
from hypothesis import given, settings
from hypothesis import strategies as st

from ovs_ros.encoders.features import Features
from ovs_ros.encoders.heads import CosineHead
from ovs_ros.options import SegmenterOptions
from ovs_ros.steps.selection import everything
from ovs_ros.steps.selection import select as select_categories
from ovs_ros.vocabulary.prompts import embed
from ovs_ros.vocabulary.vocabulary import Vocabulary
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def features(class_token, patches, valid=(1.0, 1.0)):
    return Features(class_token, patches, CosineHead(patches, 1.0), valid, 1.0)


def select(features, words, scale, options):
    """The selection with cosines of this scale."""
    return select_categories(replace(features, logit_scale=scale), words, options)


def words(embeddings, negatives=0):
    count = len(embeddings) - negatives
    vocabulary = Vocabulary.from_names(
        [f"word {i}" for i in range(count)], [f"negative {i}" for i in range(negatives)]
    )
    return WordEmbeddings(vocabulary, embeddings)


def color_words(names, negatives=()):
    return embed(Vocabulary.from_names(names, negatives), ColorTextEncoder())


def color_features(rows):
    return ColorImageEncoder().encode(color_image(rows))


def equations_1_to_5(features, words, scale, options):
    """The paper's equations as they stand, in float64, without a cap: the set of selected columns."""

    def softmax(logits):
        exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return exponentials / exponentials.sum(axis=-1, keepdims=True)

    embeddings = words.embeddings.astype(np.float64)
    patches = features.patch_tokens.reshape(-1, embeddings.shape[1]).astype(np.float64)
    of_patches = softmax(scale * patches @ embeddings.T)
    of_image = softmax(scale * embeddings @ features.class_token.astype(np.float64))
    votes = of_patches * (1 - of_image)
    count = len(words.ids)
    elected = set(votes.argmax(axis=1).tolist()) | set(np.flatnonzero(of_image > options.theta).tolist())
    return sorted(column for column in elected if column < count)


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 40), negatives=st.integers(0, 4))
@settings(max_examples=25, deadline=None)
def test_equals_the_equations(seed, count, negatives):
    rng = np.random.default_rng(seed)
    patches = unit(rng.normal(size=(5, 6, 16)))
    given_words = words(unit(rng.normal(size=(count + negatives, 16))), negatives)
    of_image = features(unit(patches.mean(axis=(0, 1))), patches)
    options = SegmenterOptions(theta=0.2, max_categories=1000)
    selection = select(of_image, given_words, 8.0, options)
    assert selection.classes.tolist() == equations_1_to_5(of_image, given_words, 8.0, options)
    assert ((selection.scores >= 0) & (selection.scores <= 1)).all()
    assert selection.words.tolist() == [*selection.classes, *range(count, count + negatives)]


def test_a_category_that_takes_the_whole_image_leaves_no_noise():
    # 1 - S_i of red is 0 in float32: its patches must not elect whatever comes next.
    selection = select(
        color_features([["red"]]), color_words(["chair", "red"]), 200.0, SegmenterOptions(theta=0.5)
    )
    assert 1 in selection.classes
    dominant = select(
        color_features([["red"] * 8]), color_words(["red", "blue", "table"]), 20.0, SegmenterOptions()
    )
    assert dominant.classes.tolist()[0] == 0 and dominant.scores[0] > 0.99


def test_theta_brings_a_dominant_category_back():
    rng = np.random.default_rng(0)
    embeddings = unit(rng.normal(size=(3, 8)))
    patches = np.broadcast_to(unit(embeddings[0] + 0.6 * embeddings[1]), (2, 2, 8)).copy()
    of_image = features(embeddings[0], patches)
    options = SegmenterOptions(theta=1.0)
    assert select(of_image, words(embeddings), 15.0, options).classes.tolist() == [1]
    assert select(of_image, words(embeddings), 15.0, SegmenterOptions(theta=0.5)).classes.tolist() == [0, 1]


def equations_1_to_3(features, words, scale):
    """Which column each patch elects, in float64."""
    embeddings = words.embeddings.astype(np.float64)
    logits = scale * features.patch_tokens.reshape(-1, embeddings.shape[1]).astype(np.float64) @ embeddings.T
    of_patches = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    of_image = np.exp(scale * embeddings @ features.class_token.astype(np.float64))
    return (of_patches * (1 - of_image / of_image.sum())).argmax(axis=1)


def test_the_cap_keeps_the_best_by_votes_and_score():
    rng = np.random.default_rng(1)
    patches = unit(rng.normal(size=(8, 8, 16)))
    of_image = features(unit(patches.mean(axis=(0, 1))), patches)
    many = words(unit(rng.normal(size=(60, 16))))
    every = select(of_image, many, 10.0, SegmenterOptions(max_categories=60))
    best = select(of_image, many, 10.0, SegmenterOptions(max_categories=5))
    votes = np.zeros(60)
    for column in equations_1_to_3(of_image, many, 10.0):
        votes[column] += 1
    rank = np.argsort(-(votes[every.classes] + 1) * every.scores)
    assert len(every.classes) > 5
    assert best.classes.tolist() == np.sort(every.classes[rank[:5]]).tolist()


def test_negatives_take_part_but_are_not_elected():
    selection = select(
        color_features([["yellow", "red"]]),
        color_words(["red", "green"], ["yellow"]),
        20.0,
        SegmenterOptions(),
    )
    assert selection.classes.tolist() == [0]
    assert selection.words.tolist() == [0, 2]


def test_an_image_of_negatives_alone_selects_nothing():
    options = SegmenterOptions(rule="top_n")
    selection = select(color_features([["yellow"]]), color_words(["red"], ["yellow"]), 20.0, options)
    assert selection.classes.tolist() == [] and selection.scores.shape == (0,)
    assert selection.words.tolist() == [1]


def test_padding_elects_nobody():
    plain = [color_features([[name]]).patch_tokens[0, 0] for name in ("red", "blue")]
    patches = np.stack(plain)[None]  # (1, 2, D)
    of_image = features(patches[0, 0], patches, valid=(1.0, 0.5))
    options = SegmenterOptions(rule="top_n")
    assert select(of_image, color_words(["red", "blue"]), 20.0, options).classes.tolist() == [0]


def test_screening_keeps_what_small_parts_of_the_image_show():
    rng = np.random.default_rng(2)
    embeddings = unit(rng.normal(size=(5000, 64)))
    shown = rng.choice(5000, 12, replace=False)
    patches = np.repeat(np.repeat(embeddings[shown].reshape(3, 4, 64), 6, axis=0), 6, axis=1)
    patches = unit(patches + 0.05 * rng.normal(size=patches.shape))
    patches[4, 4] = embeddings[7]  # one patch of its own
    of_image = features(unit(patches.mean(axis=(0, 1))), patches)
    selection = select(of_image, words(embeddings), 20.0, SegmenterOptions(shortlist=256))
    assert set(shown) | {7} <= set(selection.classes)


def test_a_sketch_keeps_what_small_parts_of_the_image_show():
    rng = np.random.default_rng(3)
    embeddings = unit(rng.normal(size=(64, 128)) @ rng.normal(size=(128, 128)))[rng.integers(0, 64, 6000)]
    embeddings = unit(embeddings + 0.05 * rng.normal(size=embeddings.shape))
    shown = rng.choice(6000, 12, replace=False)
    patches = np.repeat(np.repeat(embeddings[shown].reshape(3, 4, 128), 6, axis=0), 6, axis=1)
    of_image = features(unit(patches.mean(axis=(0, 1))), patches)
    many = words(embeddings)
    assert many.sketch is not None
    selection = select(of_image, many, 20.0, SegmenterOptions(shortlist=64))
    assert set(shown) <= set(selection.classes)


@given(seed=st.integers(0, 2**32 - 1), top_n=st.integers(1, 12), negatives=st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_top_n_is_the_union_over_patches(seed, top_n, negatives):
    rng = np.random.default_rng(seed)
    patches = unit(rng.normal(size=(3, 4, 16)))
    many = words(unit(rng.normal(size=(10 + negatives, 16))), negatives)
    of_image = features(unit(patches.mean(axis=(0, 1))), patches)
    options = SegmenterOptions(rule="top_n", top_n=top_n, theta=0.0)
    order = np.argsort(-(patches.reshape(-1, 16) @ many.embeddings.T), axis=1)[:, :top_n]
    expected = sorted(column for column in set(order.ravel().tolist()) if column < 10)
    assert select(of_image, many, 20.0, options).classes.tolist() == expected


@pytest.mark.parametrize("rule", ["dcp", "top_n"])
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_permuting_the_words_permutes_the_selection(rule, seed):
    rng = np.random.default_rng(seed)
    patches = unit(rng.normal(size=(6, 8, 16)))
    embeddings = unit(rng.normal(size=(80, 16)))
    of_image = features(unit(patches.mean(axis=(0, 1))), patches)
    options = SegmenterOptions(rule=rule, top_n=3, max_categories=10, shortlist=60)
    order = rng.permutation(80)
    straight = select(of_image, words(embeddings), 10.0, options)
    permuted = select(of_image, words(embeddings[order]), 10.0, options)
    assert sorted(order[permuted.classes]) == straight.classes.tolist()


def test_everything_takes_all():
    selection = everything(color_words(["red", "green"], ["yellow"]))
    assert selection.classes.tolist() == [0, 1] and selection.scores.tolist() == [1, 1]
    assert np.arange(3)[selection.words].tolist() == [0, 1, 2]
