import pytest

from ovs_ros.ros.stamps import ENOUGH, StampWatch

MS = 1_000_000


def watch(frames, delay=lambda frame: 5 * MS):
    """Shows the frames of a 30 Hz camera whose numbers are given."""
    stamps = StampWatch()
    for frame in frames:
        stamps.see(frame * 33 * MS, frame * 33 * MS + delay(frame))
    return stamps


def test_a_steady_stream_loses_nothing():
    assert watch(range(60)).lost_share() == 0


def test_missing_frames_count_as_lost():
    kept = [frame for frame in range(60) if frame % 4 != 3]
    assert watch(kept).lost_share() == pytest.approx(0.25, abs=0.03)


def test_frames_that_come_late_were_not_lost_on_the_way():
    kept = [frame for frame in range(60) if frame % 4 != 3]
    # After each gap the image had to wait for this process.
    assert watch(kept, delay=lambda frame: 60 * MS if frame % 4 == 0 else 5 * MS).lost_share() == 0


def test_jitter_is_no_loss():
    stamps = StampWatch()
    for frame in range(60):
        stamp = frame * 33 * MS + (frame * 7 % 5) * 2 * MS
        stamps.see(stamp, stamp + 5 * MS)
    assert stamps.lost_share() == 0


def test_a_few_frames_tell_nothing():
    assert watch(range(0, ENOUGH * 10, 10)).lost_share() == 0


def test_stamps_that_go_back_are_told_and_start_anew():
    stamps = watch(range(60))
    assert stamps.see(0, 5 * MS)
    assert not stamps.see(33 * MS, 38 * MS)
    assert not stamps.see(33 * MS, 39 * MS)
    assert stamps.lost_share() == 0
