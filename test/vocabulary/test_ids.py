"""Ids that never run out: what holds over any number of changes."""

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from ovs_ros.vocabulary.ids import fits_8_bits, give_ids

GRACE = 10
NAMES = st.builds(lambda start, count: range(start, start + count), st.integers(0, 700), st.integers(1, 300))
CHANGES = st.lists(st.tuples(NAMES, st.integers(0, GRACE)), min_size=1, max_size=12)


class Life:
    """Gives ids change by change and notes when each was last in use, and by whom.

    Attributes:
        now: a clock that only the tests move.
        seen: id -> the name that had it last, and until when.
    """

    def __init__(self) -> None:
        self.now = 0
        self.holders: dict[int, str] = {}
        self.ids: dict[str, int] = {}
        self.seen: dict[int, tuple[str, int]] = {}

    def change(self, names: Sequence[str]) -> None:
        before = self.ids
        self.seen |= {number: (name, self.now) for name, number in before.items()}
        spare = [
            number
            for number, (_, until) in sorted(self.seen.items(), key=lambda item: item[1][1])
            if number not in before.values() and until <= self.now - GRACE
        ]
        ids, self.holders = give_ids(names, self.holders, spare)
        self.ids = dict(zip(names, ids, strict=True))
        for name, number in self.ids.items():
            old, until = self.seen.get(number, (name, 0))
            assert old == name or until <= self.now - GRACE, "an id went to another name too early"
            assert self.holders[number] == name
        assert len(set(ids)) == len(ids)
        for name in before.keys() & self.ids.keys():
            assert self.ids[name] == before[name] or before[name] > 254 and fits_8_bits(ids)


@settings(max_examples=60, deadline=None)
@given(CHANGES)
def test_an_id_goes_to_another_name_only_after_the_grace_time(changes) -> None:
    life = Life()
    for names, seconds in changes:
        life.now += seconds
        life.change([f"name {i}" for i in names])


@settings(max_examples=60, deadline=None)
@given(CHANGES)
def test_labels_need_16_bits_only_with_many_names_of_the_last_seconds(changes) -> None:
    life = Life()
    for names, seconds in changes:
        life.now += seconds
        life.change([f"name {i}" for i in names])
        recent = {name for name, until in life.seen.values() if until > life.now - GRACE} - life.ids.keys()
        assert fits_8_bits(life.ids.values()) or len(life.ids) + len(recent) > 254


@settings(max_examples=30, deadline=None)
@given(CHANGES, st.data())
def test_a_name_that_returns_within_the_grace_time_gets_its_old_id(changes, data) -> None:
    life = Life()
    for names, seconds in changes:
        life.now += seconds
        life.change([f"name {i}" for i in names])
    old = dict(life.ids)
    life.change(["another name"])
    life.now += data.draw(st.integers(0, GRACE - 1))
    life.change(list(old))
    assert life.ids == old or not fits_8_bits(old.values()) and fits_8_bits(life.ids.values())


def test_ten_thousand_rounds_end_neither_the_ids_nor_8_bits() -> None:
    life = Life()
    for i in range(10_000):
        life.now += 1
        life.change(["always there", f"name {i}", f"name {i + 1}"])
        assert fits_8_bits(life.ids.values()) and life.ids["always there"] == 0
    assert len(life.holders) <= 255
