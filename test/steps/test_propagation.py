"""Labels of a key frame on a camera that pans over a wall, and everything that forces a key frame."""

import gc
import weakref
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from panning import DOOR, HEIGHT, STEP, UNKNOWN, WALL, WORDS, pan, segmentation

from ovs_ros.geometry.warp import NOWHERE, Warp
from ovs_ros.steps.propagation import (
    LONGEST_S,
    Propagation,
    SharedMotion,
    depth_propagation,
    flow_propagation,
    propagate,
)
from ovs_ros.vocabulary.vocabulary import Vocabulary


def shift(size, columns=0.0, hidden=None, mismatch=None):
    """A warp of a picture that moved to the left by some columns."""
    rows, cols = np.mgrid[: size[0], : size[1]].astype(np.float32)
    x = cols + np.float32(columns)
    away = x if hidden is None else x + hidden.astype(np.float32) * NOWHERE
    return Warp(away, rows, x, mismatch)


def follow(now, before):
    """The motion of views that are columns of a world."""
    return shift((8, 16), now.at - before.at)


class View:
    def __init__(self, at=0):
        self.at = at


@pytest.mark.parametrize("way", ["flow", "depth"])
def test_labels_move_with_the_picture(way):
    carrier = flow_propagation() if way == "flow" else depth_propagation()
    frames = list(pan(frames=6, noise=0))
    view = {"flow": lambda frame: frame.downscaled, "depth": lambda frame: frame.sight}[way]
    first = frames[0]
    carrier.keep(first.result, first.stamp, view(first))
    for frame in frames[1:]:
        carried = carrier.carry(frame.stamp, view(frame))
        stale = (first.truth != frame.truth).mean()
        assert (carried.labels != frame.truth).mean() < max(stale / 2, 0.01)
        assert list(carried.stages_ms) == ["propagate"]
        # The key frame does not show the columns that came into view.
        hole = carrier.carry(frame.stamp, view(frame), "unknown")
        moved = round((frame.stamp - first.stamp) * 15) * STEP
        assert (hole.labels[:, -moved:] == UNKNOWN).mean() > 0.9
        assert (hole.labels[:, : -moved - 8] == UNKNOWN).mean() < 0.05


def test_what_the_key_frame_does_not_show_is_filled_or_unknown():
    labels = np.repeat(np.array([[WALL, WALL, DOOR, DOOR]], np.uint8), 4, axis=1).repeat(8, axis=0)
    hidden = np.zeros((8, 16), bool)
    hidden[:, 4:8] = True
    warp = shift((8, 16), 4, hidden)
    filled, unknown = (propagate(segmentation(labels), warp, 0.0, way) for way in ("nearest", "unknown"))
    assert (filled.labels == [WALL] * 4 + [DOOR] * 12).all()
    assert (unknown.labels == [WALL] * 4 + [UNKNOWN] * 4 + [DOOR] * 4 + [UNKNOWN] * 4).all()
    assert unknown.unknown_share == 0.5 and filled.unknown_share == 0
    assert unknown.confidence[0, 5] == 0 < filled.confidence[0, 5] < filled.confidence[0, 2]
    assert dict(zip(filled.selected_names, filled.shares, strict=True)) == {"wall": 0.25, "door": 0.75}
    assert filled.vocabulary is WORDS and (filled.scores == 0.5).all()


@given(arrays(np.uint8, (9, 13), elements=st.sampled_from([0, 1, 2, 255])), st.booleans())
def test_a_picture_that_stands_still_keeps_its_labels(labels, wide):
    words = Vocabulary.from_names([f"word {i}" for i in range(300)]) if wide else WORDS
    result = segmentation(labels.astype(np.uint16 if wide else np.uint8), vocabulary=words)
    carried = propagate(result, shift(labels.shape), 0.0)
    assert (carried.labels == result.labels).all() and carried.labels.dtype == result.labels.dtype
    assert (carried.confidence == result.confidence).all()
    assert carried.unknown_share + carried.shares.sum() == pytest.approx(1)


def test_confidence_falls_with_time_and_with_mismatch():
    result = segmentation(np.zeros((8, 16), np.uint8), confidence=200)
    still = shift((8, 16))
    confidences = [propagate(result, still, seconds).confidence.mean() for seconds in (0, 0.5, 1, 2)]
    assert confidences[0] == 200 and all(a > b for a, b in pairwise(confidences))
    mismatch = np.repeat(np.array([[0, 10, 20, 60]], np.uint8), 2, axis=0)
    by_mismatch = propagate(result, shift((8, 16), mismatch=mismatch), 0).confidence[4, [0, 5, 10, 15]]
    assert by_mismatch[0] == 200 and (np.diff(by_mismatch.astype(int)) < 0).all()


def test_cuts_fast_turns_and_old_key_frames_are_refused():
    carrier = Propagation(lambda now, before: None if now.at > 100 else follow(now, before))
    assert carrier.carry(0.0, View()) is None
    carrier.keep(segmentation(np.zeros((8, 16), np.uint8)), 1.0, View())
    assert carrier.carry(1.1, View(6)) is not None
    assert carrier.carry(1.1, View(13)) is None, "more than half is out of the picture"
    assert carrier.carry(1.1, View(200)) is None, "a cut"
    assert carrier.carry(1.0 + LONGEST_S + 0.01, View()) is None
    assert carrier.carry(0.9, View()) is None, "stamps that went back"
    carrier.reset()
    assert carrier.carry(1.1, View()) is None


def test_a_real_cut_is_refused():
    frames = list(pan(frames=2))
    carrier = flow_propagation()
    carrier.keep(frames[0].result, 0.0, frames[0].downscaled)
    dark = type(frames[0].downscaled)(255 - frames[0].downscaled.gray, (HEIGHT, 128))
    assert carrier.carry(0.1, dark) is None
    assert carrier.carry(0.1, frames[1].downscaled) is not None


def test_motion_is_found_once_and_old_key_frames_are_let_go():
    asked = []

    def motion(now, before):
        asked.append((now.at, before.at))
        return follow(now, before)

    shared = SharedMotion(motion)
    views = [View(at) for at in range(4)]
    for now, before in ((1, 0), (1, 0), (2, 1), (2, 0), (3, 2)):
        assert shared(views[now], views[before]).x[0, 0] == now - before
    assert asked == [(1, 0), (2, 1), (2, 0), (3, 2)]
    first = weakref.ref(views[0])
    views[:2] = []
    gc.collect()
    assert first() is None
