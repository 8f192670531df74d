"""Thresholds from confidences, on histograms that can be checked by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_ros.evaluation.site_thresholds import CategoryConfidences


def of_levels(*categories):
    """Confidences of which each category has one pixel at each of the given levels."""
    collected = CategoryConfidences(len(categories))
    for category, levels in enumerate(categories):
        confidence = np.array(levels, np.uint8).reshape(1, -1)
        collected.add(np.full(confidence.shape, category, np.uint8), confidence)
    return collected


def test_the_lowest_threshold_that_reaches_the_precision():
    collected = of_levels([51, 102, 204, 255], [204, 255], [51, 51])
    # 0.2, 0.4, 0.8 and 1 have the mean 0.6; without the first it is 0.73, without two 0.9.
    found = collected.thresholds(precision=0.7, most_unknown=1.0)
    assert found[0] is not None and 0.2 < found[0] <= 0.4
    assert found[1] is None  # sure enough as it is
    assert found[2] is not None and found[2] <= 0.2  # never sure: none may go, as it would leave nothing


def test_the_limit_of_unknown_pixels_holds():
    collected = of_levels([25, 51, 76, 102, 127, 153, 178, 204])
    assert collected.thresholds(0.99, 0.25)[0] == pytest.approx(76 / 255, abs=1e-3)
    assert collected.thresholds(0.99, 0.5)[0] == pytest.approx(127 / 255, abs=1e-3)
    assert collected.thresholds(0.99, 0.0)[0] == pytest.approx(25 / 255, abs=1e-3)


def test_unknown_pixels_and_categories_that_nobody_saw_count_for_nothing():
    collected = CategoryConfidences(2)
    collected.add(np.array([[0, 255]], np.uint8), np.array([[200, 10]], np.uint8))
    collected.add(np.array([[65535]], np.uint16), np.array([[10]], np.uint8))
    assert collected.pixels.sum() == 1
    assert collected.thresholds(0.7, 0.5) == [None, None]


def test_a_precision_of_zero_asks_for_nothing():
    assert of_levels([0, 10, 255]).thresholds(0.0, 0.5) == [None]


@given(
    st.lists(st.integers(0, 255), min_size=1, max_size=50),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_what_stays_is_sure_enough_or_the_limit_is_reached(levels, precision, most_unknown):
    threshold = of_levels(levels).thresholds(precision, most_unknown)[0]
    confidence = np.array(levels)
    # As `validate` compares.
    kept = confidence >= np.ceil((threshold or 0) * 255 - 1e-3)
    assert kept.any() and (~kept).mean() <= most_unknown + 1e-9
    if confidence[kept].mean() / 255 < precision - 1e-6:
        fewer = confidence > confidence[kept].min()
        assert (~fewer).mean() > most_unknown - 1e-9 or not fewer.any()
