import numpy as np
import pytest
from fakes import DIM
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ovs_ros.encoders.features import Features
from ovs_ros.encoders.heads import CosineHead
from ovs_ros.steps.decoder import decode
from ovs_ros.steps.grid import covered


def features(grid, valid):
    """Features of which the decoder needs no more than the fine grid and the valid."""
    return Features(
        class_token=np.zeros(DIM, np.float32),
        patch_tokens=np.zeros((1, 1, DIM), np.float32),
        head=CosineHead(np.zeros((*grid, 1), np.float32), 1.0),
        logit_scale=1.0,
        valid=valid,
    )


def interpolation(nodes, covered_nodes, size):
    """(size, nodes) the textbook's matrix of bilinear interpolation, align_corners=False."""
    matrix = np.zeros((size, nodes))
    for pixel in range(size):
        position = min(max((pixel + 0.5) * covered_nodes / size - 0.5, 0), nodes - 1)
        low = int(position)
        matrix[pixel, low] += 1 - (position - low)
        matrix[pixel, min(low + 1, nodes - 1)] += position - low
    return matrix


def reference(logits, covered_nodes, size):
    """Upsampled logits and probabilities (H, W, C) in float64."""
    rows, cols, _ = logits.shape
    down = interpolation(rows, covered_nodes[0], size[0])
    across = interpolation(cols, covered_nodes[1], size[1])
    exact = logits.astype(np.float64)
    probabilities = np.exp(exact - exact.max(axis=2, keepdims=True))
    probabilities /= probabilities.sum(axis=2, keepdims=True)
    return tuple(
        np.einsum("yi,ijc,xj->yxc", down, grid, across, optimize=True) for grid in (exact, probabilities)
    )


def assert_equals_reference(logits, covered_nodes, size, columns, confidence):
    upsampled, probabilities = reference(logits, covered_nodes, size)
    chosen = columns[:, :, None].astype(np.intp)
    lost = upsampled.max(axis=2) - np.take_along_axis(upsampled, chosen, axis=2)[:, :, 0]
    assert lost.max() < 1e-4  # nothing but ties may be decided in another way
    expected = np.take_along_axis(probabilities, chosen, axis=2)[:, :, 0] * 255
    assert np.abs(confidence - expected).max() < 0.51


@given(
    grid=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    words=st.integers(1, 20),
    padding=st.tuples(st.floats(0, 0.6), st.floats(0, 0.6)),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=80, deadline=None)
@example(grid=(2, 1), size=(2, 1), words=7, padding=(0.125, 0.0), seed=284)  # As many pixels as nodes.
def test_any_grid_and_size_equal_bilinear_upsampling_and_argmax(grid, size, words, padding, seed):
    valid = (1 - padding[0], 1 - padding[1])
    rows, cols = covered(grid[0], valid[0]), covered(grid[1], valid[1])
    logits = np.random.default_rng(seed).normal(scale=3, size=(rows, cols, words)).astype(np.float32)
    columns, confidence = decode(logits, features(grid, valid), size)
    assert_equals_reference(logits, (grid[0] * valid[0], grid[1] * valid[1]), size, columns, confidence)


def test_smooth_areas_of_a_real_size_equal_the_reference():
    rng = np.random.default_rng(0)
    coarse = rng.normal(scale=4, size=(6, 8, 24))
    down, across = interpolation(6, 6, 72), interpolation(8, 8, 96)
    logits = np.einsum("yi,ijc,xj->yxc", down, coarse, across).astype(np.float32)
    columns, confidence = decode(logits, features((72, 96), (1.0, 1.0)), (480, 640))
    assert_equals_reference(logits, (72, 96), (480, 640), columns, confidence)
    assert columns.shape == confidence.shape == (480, 640)
    assert columns.flags.c_contiguous and confidence.flags.c_contiguous


def test_a_word_that_wins_at_no_node_can_win_between_them():
    logits = np.array([[[9, 0, 5], [0, 9, 5]]], np.float32)
    columns, _ = decode(logits, features((1, 2), (1.0, 1.0)), (1, 9))
    assert columns[0].tolist() == [0, 0, 0, 0, 2, 1, 1, 1, 1]


@pytest.mark.parametrize(("words", "dtype"), [(255, np.uint8), (256, np.uint16), (65536, np.int32)])
def test_dtype_holds_one_number_more_than_there_are_words(words, dtype):
    logits = np.zeros((2, 2, words), np.float32)
    logits[:, :, -1] = 50
    columns, confidence = decode(logits, features((2, 2), (1.0, 1.0)), (4, 4))
    assert columns.dtype == dtype
    assert (columns == words - 1).all() and (confidence == 255).all()


def test_large_logits_do_not_overflow():
    logits = np.full((2, 2, 3), 1e4, np.float32)
    logits[:, :, 1] = -1e4
    columns, confidence = decode(logits, features((2, 2), (1.0, 1.0)), (5, 5))
    assert (columns == 0).all() and np.isin(confidence, (127, 128)).all()
