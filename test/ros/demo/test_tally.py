import pytest

from ovs_ros.ros.demo.tally import LATENCY, Tally

MS = 1_000_000


def test_counts_lie_between_the_first_and_the_last_label_image():
    tally = Tally()
    for stamp in range(0, 1000, 100):  # Ten images, of which the node saw those from 200 to 800 ms.
        tally.image(stamp * MS)
    for stamp in (200, 400, 500, 800):
        tally.label_image(stamp * MS, (stamp + 90) * MS)
    assert tally.summary() == {
        **{"in": 7, "out": 4, "dropped": 3, "rate": pytest.approx(5.0)},
        **{"key rate": 0.0, "propagated rate": 0.0},
    }
    assert tally.stages_ms[LATENCY] == [90.0] * 4


def test_an_image_that_only_the_node_saw_is_not_forgotten():
    tally = Tally()
    tally.image(0)
    for stamp in (0, 100, 200):
        tally.label_image(stamp * MS, stamp * MS)
    assert tally.summary()["in"] == 3 and tally.summary()["dropped"] == 0


def test_nothing_out():
    tally = Tally()
    tally.image(5)
    rates = {"rate": 0.0, "key rate": 0.0, "propagated rate": 0.0}
    assert tally.summary() == {"in": 1, "out": 0, "dropped": 1, **rates}
    assert tally.table().row_count >= 4


def test_the_table_shows_stages_and_versions():
    tally = Tally()
    tally.label_image(0, 10 * MS)
    tally.categories(1, {"encode": 50.0}, 0, False)
    tally.categories(2, {"encode": 70.0}, 0, False)
    table = tally.table()
    first = list(table.columns[0].cells)
    assert first[-3:] == ["encode", "vocabulary version 1", "vocabulary version 2"]
    assert list(table.columns[1].cells)[-3] == "60.0 ms"


def test_key_frames_and_propagated_ones_are_counted_apart():
    tally = Tally()
    for stamp, key in ((0, 0), (100, 0), (200, 100), (300, 100), (400, 400)):
        tally.label_image(stamp * MS, stamp * MS)
        tally.categories(1, {}, key * MS, key < stamp)
    summary = tally.summary()
    assert summary["key rate"] == pytest.approx(5.0)  # Two after the first one.
    assert summary["propagated rate"] == pytest.approx(7.5)
