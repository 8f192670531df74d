import numpy as np
import pytest
from fakes import color_image, color_segmenter

from ovs_ros.segmenter import SegmenterOptions
from ovs_ros.steps.grid import at_nodes
from ovs_ros.vocabulary.vocabulary import Vocabulary


@pytest.mark.parametrize("size", [32, 36])
def test_labels_at_nodes_are_those_of_the_pixels_below(size):
    """In an image of plain squares, with and without padding, nodes are named as the truth under them."""
    segmenter = color_segmenter()
    words = segmenter.embed(Vocabulary.from_names(["red", "green", "blue"]))
    truth = np.array([[0, 1, 2], [2, 2, 0]], np.uint8).repeat(size, axis=0).repeat(size, axis=1)
    image = color_image([["red", "green", "blue"], ["blue", "blue", "red"]], size)
    scored = segmenter.score(image, words, SegmenterOptions(select=False))
    given = scored.logits.argmax(axis=2)
    at = at_nodes(truth, scored.features, given.shape)
    assert at.shape == given.shape and at.dtype == np.uint8
    if size == 32:
        np.testing.assert_array_equal(at, given)
    else:
        assert (at == given).mean() > 0.9  # nodes that lie on a border see two colours
