"""How postprocessing comes into the way of a frame."""

import numpy as np
import pytest
from fakes import color_image, color_segmenter
from hypothesis import given, settings
from hypothesis import strategies as st

from ovs_ros.encoders.features import Features
from ovs_ros.encoders.heads import CosineHead
from ovs_ros.options import SegmenterOptions, declared
from ovs_ros.steps.grid import covered
from ovs_ros.steps.label_propagation import propagate
from ovs_ros.steps.postprocess import guide_at_nodes, refine, with_fine_grid
from ovs_ros.vocabulary.vocabulary import Vocabulary

POSTPROCESSES = declared(SegmenterOptions)["postprocess"].choices

WORDS = ["red", "green", "blue", "white"]


def features_of(patch_grid, node_grid, valid=(1.0, 1.0), seed=0):
    rng = np.random.default_rng(seed)
    patches = rng.standard_normal((*patch_grid, 6)).astype(np.float32) + 1
    patches /= np.linalg.norm(patches, axis=2, keepdims=True)
    pixels = rng.standard_normal((*node_grid, 6)).astype(np.float32)
    return Features(patches[0, 0], patches, CosineHead(pixels, 1.0), valid, 1.0)


def some_logits(features, words=3, seed=1):
    shape = [covered(features.grid[axis], features.valid[axis]) for axis in (0, 1)]
    return np.random.default_rng(seed).standard_normal((*shape, words)).astype(np.float32)


def some_image(seed=2):
    return np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8)


@pytest.mark.parametrize("postprocess", POSTPROCESSES)
def test_a_plain_picture_comes_out_right(postprocess):
    picture = color_image([["red", "green", "white"], ["blue", "red", "blue"]], 64)
    segmenter = color_segmenter(postprocess=postprocess)
    result = segmenter.segment(picture, segmenter.embed(Vocabulary.from_names(WORDS)))
    expected = np.array([[0, 1, 3], [2, 0, 2]]).repeat(64, axis=0).repeat(64, axis=1)
    inner = np.zeros(expected.shape, bool)
    inner.reshape(2, 64, 3, 64)[:, 12:52, :, 12:52] = True
    np.testing.assert_array_equal(result.labels[inner], expected[inner])
    assert (result.labels == expected).mean() > 0.97
    assert ("postprocess" in result.stages_ms) == (postprocess != "none")


def test_options_are_checked():
    with pytest.raises(ValueError, match="expected postprocess to be one of none, pamr, propagation"):
        SegmenterOptions(postprocess="crf")  # type: ignore[arg-type]  # what is tested


def test_nothing_is_done_where_none_is_asked():
    features = features_of((4, 5), (16, 20))
    logits = some_logits(features)
    assert refine(logits, features, some_image(), "none") is logits


def test_propagation_adds_what_it_changes_of_the_patches_means():
    features = features_of((4, 5), (16, 20))
    logits = some_logits(features)
    got = refine(logits, features, some_image(), "propagation")
    means = logits.reshape(4, 4, 5, 4, 3).mean(axis=(1, 3))
    change = propagate(means, features.patch_tokens) - means
    # In the middle of four patches bilinear interpolation takes their mean.
    around = change[:2, :2].mean(axis=(0, 1))
    np.testing.assert_allclose((got - logits)[3:5, 3:5].mean(axis=(0, 1)), around, atol=1e-5)
    np.testing.assert_allclose((got - logits)[0, 0], change[0, 0], atol=1e-5)


def test_padding_takes_no_part_in_propagation():
    features = features_of((6, 8), (24, 32), valid=(0.5, 0.75))
    logits = some_logits(features)
    cut = Features(
        features.class_token,
        features.patch_tokens[:3, :6],
        CosineHead(np.zeros((12, 24, 6), np.float32), 1.0),
        (1.0, 1.0),
        1.0,
    )
    image = some_image()
    np.testing.assert_allclose(
        refine(logits, features, image, "propagation"), refine(logits, cut, image, "propagation"), atol=1e-5
    )


def test_the_guide_lies_under_the_nodes():
    # The image covers two and a half of four rows of nodes, so the last node hangs half over its end.
    features = features_of((1, 1), (4, 2), valid=(0.625, 1.0))
    image = np.zeros((50, 40, 3), np.uint8)
    image[20:40, 20:] = 100
    image[40:, :, 1] = 200
    guide = guide_at_nodes(image, features)
    assert guide.shape == (3, 2, 3) and guide.dtype == np.float32
    np.testing.assert_allclose(guide[:, :, 0] * 255, [[0, 0], [0, 100], [0, 0]], atol=1)
    np.testing.assert_allclose(guide[:, :, 1] * 255, [[0, 0], [0, 100], [200, 200]], atol=1)


def test_what_follows_edges_gets_nodes_finer_than_patches():
    features = features_of((5, 6), (5, 6))
    fine = with_fine_grid(features, "pamr")
    assert fine.grid == (20, 24)
    words = np.eye(6, dtype=np.float32)[:2]
    cosines = fine.head.logits(words)
    near = np.float32([0.875, 0.125])  # The third node of four lies an eighth of a patch behind the centre.
    coarse = features.head.logits(words)[:2, :2]
    np.testing.assert_allclose(cosines[2, 2], np.einsum("y,x,yxm->m", near, near, coarse), rtol=1e-5)
    doubled = fine.head.changed(lambda grid, valid: 2 * grid, (1.0, 1.0)).logits(words)
    np.testing.assert_allclose(doubled, 2 * cosines, rtol=1e-5)
    added = fine.head.logits(words, np.ones((5, 6, 2), np.float32))
    np.testing.assert_allclose(added, cosines + 1, atol=1e-5)


def test_grids_that_are_fine_enough_stay():
    features = features_of((5, 6), (20, 24))
    for postprocess in POSTPROCESSES:
        assert with_fine_grid(features, postprocess) is features
    coarse = features_of((5, 6), (5, 6))
    assert with_fine_grid(coarse, "propagation") is coarse and with_fine_grid(coarse, "none") is coarse


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(POSTPROCESSES),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.tuples(st.integers(1, 17), st.integers(1, 17)),
    st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)),
    st.integers(0, 10**6),
)
def test_any_grids_and_extents(postprocess, patches, nodes, valid, seed):
    features = features_of(patches, nodes, valid, seed)
    logits = some_logits(features, 4, seed)
    image = some_image(seed)
    got = refine(logits, features, image, postprocess)
    assert got.shape == logits.shape and got.dtype == np.float32 and got.flags.c_contiguous
    turned = np.random.default_rng(seed).permutation(4)
    again = refine(np.ascontiguousarray(logits[..., turned]), features, image, postprocess)
    np.testing.assert_allclose(again, got[..., turned], atol=1e-3)
    constant = np.full_like(logits, 2.0)
    np.testing.assert_allclose(refine(constant, features, image, postprocess), constant, atol=1e-2)
