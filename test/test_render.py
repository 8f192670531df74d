import numpy as np
import pytest
from fakes import color_image, color_segmenter

from ovs_ros.render import (
    LEGEND_WIDTH,
    SPACED_TOGETHER,
    colorize,
    display_colors,
    legend_rows,
    legend_strip,
    overlay,
    painted,
    picture,
)
from ovs_ros.vocabulary.vocabulary import UNKNOWN_COLOR, Vocabulary

WORDS = Vocabulary.from_names(["wall", "chair"]).removed(["wall"]).added(["table"])  # ids 1 and 2
COLORS = display_colors(WORDS.names, WORDS.names)


@pytest.mark.parametrize(("dtype", "foreign"), [(np.uint8, 255), (np.uint16, 65535)])
def test_colours_are_those_of_the_names(dtype, foreign):
    labels = np.array([[1, 2, foreign, 0]], dtype)
    chair, table = WORDS.categories
    assert colorize(labels, WORDS)[0].tolist() == [list(chair.color), list(table.color), [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_overlay_blends_outlines_and_leaves_unknown_pixels_alone(dtype):
    words = WORDS if dtype == np.uint8 else WORDS.added([f"word {i}" for i in range(300)])
    image = np.full((6, 9, 3), 200, np.uint8)
    labels = np.full((6, 9), words.unknown_id, dtype)
    labels[:, :3], labels[:, 3:6] = 1, 2
    blended = overlay(image, labels, words, alpha=0.25, names=False)
    colors = display_colors(words.names, ["chair", "table"])
    for columns, name in ((slice(0, 2), "chair"), (slice(3, 5), "table")):
        expected = 0.75 * 200 + 0.25 * np.array(colors[name])
        assert np.abs(blended[:, columns] - expected).max() <= 1
        outline = blended[:, columns.stop]
        assert np.abs(outline - expected / 4).max() <= 1
    assert (blended[:, 6:] == 200).all() and (image == 200).all()


def test_overlay_writes_names_on_large_regions_alone():
    image = np.full((240, 320, 3), 120, np.uint8)
    labels = np.full((240, 320), WORDS.unknown_id, np.uint8)
    labels[:120], labels[200:206, :40] = 1, 2
    written = overlay(image, labels, WORDS) != overlay(image, labels, WORDS, names=False)
    rows, columns, _ = np.nonzero(written)
    assert rows.min() > 0 and rows.max() < 120
    assert rows.max() - rows.min() < 20 and columns.max() - columns.min() < 60
    assert np.array_equal(
        overlay(image[:8], labels[:8], WORDS), overlay(image[:8], labels[:8], WORDS, names=False)
    )


def test_overlay_refuses_other_sizes_and_alphas():
    with pytest.raises(ValueError, match="shape"):
        overlay(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 3), np.uint8), WORDS)
    with pytest.raises(ValueError, match="alpha"):
        overlay(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint8), WORDS, alpha=2)


def test_painted_has_the_overlays_colours_and_leaves_unknown_pixels_alone():
    labels = np.array([[*WORDS.ids, WORDS.unknown_id]], np.uint8)
    image = np.full((1, 3, 3), 77, np.uint8)
    wanted = [*(COLORS[name] for name in WORDS.names), (77, 77, 77)]
    assert painted(image, labels, WORDS).tolist() == [[list(color) for color in wanted]]
    assert (image == 77).all()


def test_colours_are_spaced_in_the_whole_of_a_small_vocabulary_and_in_what_is_shown_of_a_large_one():
    names = [f"word {i}" for i in range(SPACED_TOGETHER + 1)]
    assert display_colors(names[:-1], names[:2]).keys() == set(names[:-1])
    assert display_colors(names, names[:2]).keys() == set(names[:2])


def test_legend_shows_the_largest_share_first():
    rows = legend_rows(WORDS.names, {"chair": 0.2, "table": 0.65, "lamp": 0.001}, 0.15)
    assert rows == [
        ("table", COLORS["table"], 0.65),
        ("chair", COLORS["chair"], 0.2),
        ("unknown", UNKNOWN_COLOR, 0.15),
    ]
    strip = legend_strip(rows, 64)
    assert strip.shape == (64, LEGEND_WIDTH, 3)
    assert strip[10, 10].tolist() == list(COLORS["table"]) and strip[30, 10].tolist() == list(COLORS["chair"])
    assert legend_strip(rows, 5).shape == (5, LEGEND_WIDTH, 3)
    larger = legend_strip(rows, 128, 400, scale=2)
    assert larger[20, 20].tolist() == list(COLORS["table"]) and larger[60, 20].tolist() == list(
        COLORS["chair"]
    )


@pytest.mark.parametrize(
    ("size", "times", "legend"), [(32, 8, 128), (160, 2, 160), (240, 1, 120), (500, 1, 200), (1200, 1, 400)]
)
def test_a_legend_does_not_outgrow_its_picture(size, times, legend):
    image = color_image([["blue"], ["blue"], ["red"]], size)
    segmenter = color_segmenter()
    result = segmenter.segment(image, segmenter.embed(Vocabulary.from_names(["red", "blue"])))
    shown = picture(image, result)
    assert shown.shape == (3 * times * size, times * size + legend, 3)
    corner = 20 if legend > LEGEND_WIDTH else 10
    blue = display_colors(["red", "blue"], [])["blue"]
    assert shown[corner, times * size + corner].tolist() == list(blue)
