import numpy as np
import pytest
from fakes import color_image, color_segmenter

from ovs_ros.render import LEGEND_WIDTH, colorize, legend, overlay, with_legend
from ovs_ros.vocabulary.vocabulary import Vocabulary

WORDS = Vocabulary.from_names(["wall", "chair"]).removed(["wall"]).added(["table"])  # ids 1 and 2


@pytest.mark.parametrize(("dtype", "foreign"), [(np.uint8, 255), (np.uint16, 65535)])
def test_colours_are_those_of_the_names(dtype, foreign):
    labels = np.array([[1, 2, foreign, 0]], dtype)
    chair, table = WORDS.categories
    assert colorize(labels, WORDS)[0].tolist() == [list(chair.color), list(table.color), [0, 0, 0], [0, 0, 0]]


def test_overlay_blends_and_leaves_unknown_pixels_alone():
    image = np.full((1, 2, 3), 200, np.uint8)
    labels = np.array([[1, 255]], np.uint8)
    blended = overlay(image, labels, WORDS, alpha=0.25)
    expected = 0.75 * 200 + 0.25 * np.array(WORDS.categories[0].color)
    assert np.abs(blended[0, 0] - expected).max() <= 1
    assert blended[0, 1].tolist() == [200, 200, 200]
    assert (image == 200).all()


def test_overlay_refuses_other_sizes_and_alphas():
    with pytest.raises(ValueError, match="shape"):
        overlay(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 3), np.uint8), WORDS)
    with pytest.raises(ValueError, match="alpha"):
        overlay(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint8), WORDS, alpha=2)


def test_legend_shows_the_largest_share_first():
    segmenter = color_segmenter()
    vocabulary = Vocabulary.from_names(["red", "blue"])
    image = color_image([["blue", "blue", "red"]])
    result = segmenter.segment(image, segmenter.embed(vocabulary))
    strip = legend(result, height=64)
    assert strip.shape == (64, LEGEND_WIDTH, 3)
    assert strip[10, 10].tolist() == list(vocabulary.categories[1].color)
    assert strip[30, 10].tolist() == list(vocabulary.categories[0].color)
    assert legend(result, height=5).shape == (5, LEGEND_WIDTH, 3)
    assert with_legend(image, result).shape == (32, 96 + LEGEND_WIDTH, 3)
