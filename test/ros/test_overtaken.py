"""Images that a newer one overtook in the middleware."""

from ovs_ros.ros.overtaken import MOST, Overtaken


def counted(*numbers, lost=()):
    """How many were overtaken in all, where `lost` has (after which message, how many)."""
    overtaken, total = Overtaken(), 0
    for number in numbers:
        total += overtaken.before({"publication_sequence_number": number})
        for after, count in lost:
            if after == number:
                overtaken.lost(count)
    return total


def test_gaps_are_counted_with_the_next_message():
    assert counted(7, 8, 9) == 0
    assert counted(7, 11) == 0
    assert counted(7, 11, 12) == 3
    assert counted(7, 11, 14, 15) == 5


def test_what_was_lost_on_the_way_was_not_overtaken():
    assert counted(7, 11, 12, lost=[(11, 3)]) == 0
    assert counted(7, 11, 12, lost=[(11, 1)]) == 2
    assert counted(7, 8, 11, 12, lost=[(8, 5)]) == 2


def test_another_publisher_and_no_numbers_make_no_gap():
    assert counted(1000, 5, 6) == 0
    assert counted(5, 5 + MOST + 2, 5 + MOST + 3) == 0
    assert counted(None, None) == 0
    assert Overtaken().before({"source_timestamp": 1}) == 0
