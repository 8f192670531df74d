"""A camera that pans over a wall with a noisy segmenter; and everything that makes a memory worthless."""

import numpy as np
import pytest
from panning import CUP, DOOR, HZ, UNKNOWN, WALL, WORDS, pan, segmentation

from ovs_ros.evaluation.flicker import Flicker
from ovs_ros.geometry.warp import Warp
from ovs_ros.steps.temporal_filter import TemporalFilter, flow_filter, pose_filter
from ovs_ros.vocabulary.vocabulary import Vocabulary


def still(now, before):
    rows, columns = np.mgrid[: before[0], : before[1]].astype(np.float32)
    return Warp(columns, rows)


def show(temporal_filter, labels, stamp, **changes):
    return temporal_filter.apply(segmentation(labels, **changes), stamp, labels.shape)


def plain(name, size=(4, 6), dtype=np.uint8):
    return np.full(size, name, dtype)


@pytest.mark.parametrize("way", ["flow", "pose"])
def test_flicker_falls_by_more_than_half_and_labels_come_nearer_to_the_truth(way):
    temporal_filter = flow_filter() if way == "flow" else pose_filter()
    before, after = Flicker(), Flicker()
    wrong_before = wrong_after = 0
    for frame in pan():
        filtered = temporal_filter.apply(
            frame.result, frame.stamp, frame.downscaled if way == "flow" else frame.sight
        )
        before.add(frame.result.labels, frame.sight)
        after.add(filtered.labels, frame.sight)
        wrong_before += (frame.result.labels != frame.truth).mean()
        wrong_after += (filtered.labels != frame.truth).mean()
    assert before.rate == pytest.approx(0.25, abs=0.03)
    assert after.rate < before.rate / 2
    assert wrong_after < wrong_before / 2


@pytest.mark.parametrize("way", ["flow", "pose"])
def test_what_really_changes_is_adopted_within_a_second(way):
    temporal_filter = flow_filter() if way == "flow" else pose_filter()
    shown = {}
    for number, frame in enumerate(pan(frames=35, appears=15)):
        filtered = temporal_filter.apply(
            frame.result, frame.stamp, frame.downscaled if way == "flow" else frame.sight
        )
        cup = frame.truth == CUP
        if cup.any():
            shown[number - 15] = (filtered.labels[cup] == CUP).mean()
    assert shown[1] < 0.3
    assert shown[int(HZ) - 1] > 0.85


@pytest.mark.parametrize("hz", [5.0, 15.0, 60.0])
@pytest.mark.parametrize(("old", "new"), [(150, 150), (200, 50)])
def test_a_change_is_adopted_after_the_time_that_the_formula_tells(hz, old, new):
    temporal_filter = TemporalFilter(still, time_constant=0.5)
    settled = int(4 * hz)
    for number in range(settled):
        show(temporal_filter, plain(WALL), number / hz, confidence=old)
    number = settled
    while (show(temporal_filter, plain(DOOR), number / hz, confidence=new).labels != DOOR).any():
        number += 1
    adopted = (number + 1 - settled) / hz
    assert adopted == pytest.approx(0.5 * np.log(1 + old / new), abs=1.01 / hz)


def test_one_frames_slip_does_not_show_and_costs_confidence():
    temporal_filter = TemporalFilter(still)
    for number in range(10):
        steady = show(temporal_filter, plain(WALL), number / HZ)
    assert (steady.confidence == 128).all()
    slip = plain(WALL)
    slip[1, 2] = DOOR
    filtered = show(temporal_filter, slip, 10 / HZ)
    assert (filtered.labels == WALL).all()
    assert (filtered.confidence != 128).sum() == 1 and 0 < filtered.confidence[1, 2] < 128


def test_a_vote_for_unknown_weighs_half():
    temporal_filter = TemporalFilter(still)
    show(temporal_filter, plain(WALL), 0.0, confidence=100)
    assert (show(temporal_filter, plain(UNKNOWN), 0.01, confidence=180).labels == WALL).all()
    temporal_filter.reset()
    show(temporal_filter, plain(UNKNOWN), 0.0, confidence=180)
    assert (show(temporal_filter, plain(WALL), 0.01, confidence=100).labels == WALL).all()


def test_shares_and_names_fit_the_labels_and_the_rest_stays():
    temporal_filter = TemporalFilter(still)
    show(temporal_filter, plain(DOOR), 0.0, confidence=250)
    labels = plain(UNKNOWN)
    labels[:2] = CUP
    raw = segmentation(labels, confidence=100)
    filtered = temporal_filter.apply(raw, 0.01, labels.shape)
    assert (filtered.labels == DOOR).all() and filtered.labels.flags.c_contiguous
    assert filtered.selected_names == ("door", "cup")
    assert filtered.selected_ids.tolist() == [DOOR, CUP] and filtered.selected_ids.dtype == np.uint16
    assert filtered.scores.tolist() == [0, 0.5]
    assert filtered.shares.tolist() == [1, 0] and filtered.unknown_share == 0
    assert list(filtered.stages_ms) == ["decode", "temporal_filter"]
    assert (raw.labels == labels).all() and (raw.confidence == 100).all()


def test_what_its_user_draws_into_a_result_is_not_remembered():
    temporal_filter = TemporalFilter(still)
    for number in range(3):
        result = show(temporal_filter, plain(WALL), number / HZ)
        result.labels[:] = CUP
    assert (show(temporal_filter, plain(DOOR), 3 / HZ, confidence=1).labels == WALL).all()


def settled(vocabulary=WORDS, dtype=np.uint8, name=DOOR, motion=still):
    """A temporal_filter that has seen one name for long."""
    temporal_filter = TemporalFilter(motion)
    for number in range(30):
        show(temporal_filter, plain(name, dtype=dtype), number / HZ, vocabulary=vocabulary)
    return temporal_filter


@pytest.mark.parametrize(
    "change",
    [
        lambda words: words.removed(["door"]),
        lambda words: words.added(["plate"]),
        lambda words: words.replaced(["wall"]),
        lambda words: words.added([f"thing {i}" for i in range(300)]).removed(["door"]),
    ],
)
def test_another_vocabulary_starts_anew(change):
    vocabulary = change(WORDS)
    dtype = np.uint16 if vocabulary.wide else np.uint8
    temporal_filter = settled()
    for number in (30, 31):
        filtered = show(
            temporal_filter, plain(WALL, dtype=dtype), number / HZ, confidence=1, vocabulary=vocabulary
        )
        assert (filtered.labels == WALL).all() and filtered.labels.dtype == dtype
        assert filtered.selected_names == ("wall",)


def test_wide_labels_are_filtered_too_and_become_narrow_again():
    many = Vocabulary.from_names([f"thing {i}" for i in range(400)])
    temporal_filter = settled(many, np.uint16, 399)
    mixed = plain(65535, dtype=np.uint16)
    mixed[0] = 300
    filtered = show(temporal_filter, mixed, 30 / HZ, vocabulary=many)
    assert filtered.labels.dtype == np.uint16 and (filtered.labels == 399).all()
    assert filtered.selected_names == ("thing 300", "thing 399")
    assert filtered.unknown_share == 0
    few = many.replaced(["thing 3"])
    assert (show(temporal_filter, plain(3), 31 / HZ, confidence=1, vocabulary=few).labels == 3).all()


def test_another_size_starts_anew():
    filtered = show(settled(), plain(WALL, (5, 6)), 30 / HZ, confidence=1)
    assert filtered.labels.shape == (5, 6) and (filtered.labels == WALL).all()


@pytest.mark.parametrize("stamp", [1.0, 29 / HZ])
def test_a_stamp_that_is_not_later_starts_anew(stamp):
    temporal_filter = settled()
    assert (show(temporal_filter, plain(WALL), stamp, confidence=1).labels == WALL).all()
    assert (show(temporal_filter, plain(CUP), stamp + 0.01, confidence=2).labels == CUP).all()


def test_a_cut_starts_anew():
    cuts = []
    temporal_filter = settled(motion=lambda now, before: None if cuts else still(now, before))
    cuts.append("a cut")
    assert (show(temporal_filter, plain(WALL), 30 / HZ, confidence=1).labels == WALL).all()


def test_reset_and_a_long_pause_forget():
    temporal_filter = settled()
    temporal_filter.reset()
    assert (show(temporal_filter, plain(WALL), 30 / HZ, confidence=1).labels == WALL).all()
    assert (show(settled(), plain(WALL), 3600.0, confidence=1).labels == WALL).all()


def test_pixels_that_were_not_in_the_picture_get_the_frames_name():
    temporal_filter = TemporalFilter(lambda now, before: Warp(still(now, before).x + 2, still(now, before).y))
    for number in range(5):
        show(temporal_filter, plain(DOOR), number / HZ)
    filtered = show(temporal_filter, plain(WALL), 5 / HZ, confidence=1)
    assert (filtered.labels[:, :4] == DOOR).all() and (filtered.labels[:, 4:] == WALL).all()


def test_a_time_constant_of_nothing_is_refused():
    with pytest.raises(ValueError, match="expected a time constant above 0"):
        TemporalFilter(still, time_constant=0.0)
