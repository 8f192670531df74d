"""Whose turn it is, over made-up arrivals."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_ros.ros.turns import EARLY, RateLimit, Turns

PRIORITIES = st.lists(st.sampled_from([0.25, 0.5, 1.0, 2.0, 3.0, 8.0]), min_size=1, max_size=6)


@given(PRIORITIES, st.integers(1, 300))
def test_cameras_that_always_wait_get_turns_in_the_ratio_of_their_priorities(priorities, rounds):
    turns = Turns(len(priorities))
    got = Counter(turns.next(range(len(priorities)), priorities)[0] for _ in range(rounds))
    for camera, priority in enumerate(priorities):
        assert got[camera] == pytest.approx(rounds * priority / sum(priorities), abs=len(priorities))


@given(st.integers(1, 8), st.integers(1, 30))
def test_equal_cameras_take_turns_one_after_the_other(cameras, rounds):
    turns = Turns(cameras)
    order = [turns.next(range(cameras), [1.0] * cameras)[0] for _ in range(cameras * rounds)]
    assert order == list(range(cameras)) * rounds


@st.composite
def arrivals(draw):
    """Priorities, and for each turn the cameras that wait."""
    priorities = draw(PRIORITIES)
    cameras = st.sets(st.integers(0, len(priorities) - 1), min_size=1)
    return priorities, draw(st.lists(cameras, max_size=200))


@given(arrivals())
def test_whoever_waits_is_chosen_and_nobody_starves_whatever_the_others_do(made):
    priorities, rounds = made
    turns = Turns(len(priorities))
    passed: Counter[int] = Counter()
    for waiting in rounds:
        (chosen,) = turns.next(waiting, priorities)
        assert chosen in waiting
        for camera in waiting - {chosen}:
            passed[camera] += 1
        # Each other camera may go first as often as its priority is higher, and twice more.
        most = sum(other / priorities[chosen] + 2 for other in priorities)
        assert passed.pop(chosen, 0) <= most


@given(st.integers(1, 500))
def test_a_camera_that_was_away_gets_no_more_than_its_share_later(alone):
    turns = Turns(2)
    for _ in range(alone):
        assert turns.next([0], [1.0, 1.0]) == [0]
    got = Counter(turns.next([0, 1], [1.0, 1.0])[0] for _ in range(20))
    assert abs(got[0] - got[1]) <= 2


@given(st.integers(1, 50))
def test_a_camera_whose_frame_comes_a_little_late_keeps_its_share(rounds):
    """The first two take turns; the third camera's frame is there at every second decision only."""
    turns, got = Turns(3), Counter()
    for number in range(6 * rounds):
        got[turns.next([0, 1, 2] if number % 2 else [0, 1], [1.0, 1.0, 1.0])[0]] += 1
    assert got[2] >= 2 * rounds - 2


def test_priorities_may_change_in_between():
    turns = Turns(2)
    for _ in range(100):
        turns.next([0, 1], [8.0, 1.0])
    got = Counter(turns.next([0, 1], [1.0, 1.0])[0] for _ in range(100))
    assert abs(got[0] - got[1]) <= 2


@given(PRIORITIES, st.integers(1, 8), st.integers(1, 200))
def test_cameras_that_are_chosen_together_are_those_that_would_have_been_chosen_in_turn(
    priorities, most, rounds
):
    """So that priorities count as much with batches as without."""
    waiting = range(len(priorities))
    together, in_turn = Turns(len(priorities)), Turns(len(priorities))
    for _ in range(rounds):
        chosen = together.next(waiting, priorities, most)
        assert 1 <= len(chosen) <= most and len(set(chosen)) == len(chosen)
        assert chosen == [in_turn.next(waiting, priorities)[0] for _ in chosen]


@given(st.integers(1, 8), st.integers(1, 20))
def test_equal_cameras_that_always_wait_are_always_chosen_together(cameras, rounds):
    turns = Turns(cameras)
    for _ in range(rounds):
        assert turns.next(range(cameras), [1.0] * cameras, 8) == list(range(cameras))


def test_a_camera_of_lower_priority_is_left_out_where_another_would_be_next_again():
    turns = Turns(2)
    together = [turns.next([0, 1], [3.0, 1.0], 8) for _ in range(30)]
    assert all(0 in chosen for chosen in together)
    assert sum(1 in chosen for chosen in together) == pytest.approx(10, abs=1)


GAPS = st.lists(st.floats(0.001, 2.0), min_size=1, max_size=200)


@given(GAPS, st.floats(0.1, 100))
def test_never_more_pass_than_the_rate_allows(gaps, rate):
    limit, now, passed = RateLimit(), 100.0, []
    for gap in gaps:
        now += gap
        if limit.passes(now, rate):
            passed.append(now)
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            seconds = passed[last] - passed[first]
            assert last - first + 1 <= seconds * rate * (1 + 1e-9) + 2 + EARLY


@given(st.floats(1.0, 3.0), st.lists(st.floats(0.0, 1.0), min_size=100, max_size=200))
def test_frames_that_come_more_often_pass_at_the_rate(factor, jitter):
    limit, rate, gap = RateLimit(), 10.0, 0.1 / factor
    times = [100 + index * gap + part * gap / 4 for index, part in enumerate(jitter)]
    passed = sum(limit.passes(now, rate) for now in times)
    assert passed == pytest.approx((times[-1] - times[0]) * rate, abs=2 + 0.3 * len(times) * gap * rate / 4)
