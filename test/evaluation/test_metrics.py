import numpy as np
import pytest

from ovs_ros.evaluation.metrics import ConfusionMatrix, SelectionRecall


def test_counts_by_hand():
    matrix = ConfusionMatrix(3)
    matrix.add(np.array([[0, 0, 1], [1, 255, 255]], np.uint8), np.array([[0, 1, 1], [255, 0, 2]], np.uint8))
    np.testing.assert_allclose(matrix.iou, [1 / 2, 1 / 3, np.nan])
    assert matrix.mean_iou == pytest.approx(5 / 12)
    assert matrix.pixel_accuracy == pytest.approx(2 / 4)


def test_images_add_up():
    rng = np.random.default_rng(0)
    truth, given = rng.integers(0, 4, (2, 2, 10, 10))
    apart, together = ConfusionMatrix(4), ConfusionMatrix(4)
    for a, b in zip(truth, given, strict=True):
        apart.add(a, b)
    together.add(truth, given)
    np.testing.assert_array_equal(apart.counts, together.counts)


def test_a_given_class_that_the_truth_lacks_hurts_others_alone():
    matrix = ConfusionMatrix(2)
    matrix.add(np.zeros((2, 2), np.uint8), np.array([[0, 0], [0, 1]]))
    assert matrix.iou[0] == 0.75 and np.isnan(matrix.iou[1]) and matrix.mean_iou == 0.75


def test_nothing_counted_is_nan_and_shapes_must_agree():
    matrix = ConfusionMatrix(2)
    assert np.isnan(matrix.mean_iou) and np.isnan(matrix.pixel_accuracy)
    with pytest.raises(ValueError, match="shape"):
        matrix.add(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8))


def test_tells_what_a_class_is_most_often_mistaken_for():
    matrix = ConfusionMatrix(3)
    matrix.add(np.array([0, 0, 0, 0, 1, 1]), np.array([0, 1, 1, 2, 255, 1]))
    others, share = matrix.mistaken
    assert others[:2].tolist() == [1, 3]  # class 1 was called none of them
    np.testing.assert_allclose(share, [2 / 4, 1 / 2, np.nan])


def test_recall_counts_what_is_clearly_there_and_any_pixel_apart():
    counts = SelectionRecall(4)
    truth = np.zeros((100, 100), np.uint8)
    truth[0, :10], truth[0, 10:19], truth[1] = 1, 2, 255  # 0.1 %, less, and pixels that do not count
    counts.add(truth, np.array([0, 1, 7]))
    counts.add(np.full((10, 10), 3, np.uint8), np.array([0]))
    assert counts.recall == 2 / 3 and counts.recall_any == 2 / 4
    assert counts.mean_survivors == 2


def test_recall_of_nothing_is_no_number():
    counts = SelectionRecall(2)
    assert np.isnan(counts.recall) and np.isnan(counts.recall_any) and np.isnan(counts.mean_survivors)
