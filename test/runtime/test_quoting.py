"""Text from outside in messages is cut and printable."""

from fuzz import fuzz
from hypothesis import given
from hypothesis import strategies as st

from ovs_ros.runtime.quoting import quoted, quoted_list


def test_short_texts_stand_as_they_are():
    assert quoted("a red chair") == "'a red chair'"
    assert quoted("日本 'x'") == "'日本 'x''"
    assert quoted(3.5) == "3.5" and quoted(None) == "None"


def test_long_ones_are_cut_and_counted():
    assert quoted("x" * 201) == "'" + "x" * 200 + "…' (201 characters)"
    assert len(quoted("x" * 10_000_000)) < 240
    assert len(quoted(["x" * 10_000_000] * 1000)) < 240
    assert len(quoted(b"x" * 10_000)) < 240


def test_what_acts_on_a_terminal_is_escaped():
    assert quoted("a\nb\x1b[2J\u202eb\0") == r"'a\nb\x1b[2J\u202eb\x00'"


def test_lists_are_cut_too():
    assert quoted_list(["a", "b", "c"], 2) == "'a', 'b' and 1 more"


@fuzz
@given(st.one_of(st.text(), st.text(min_size=190, max_size=210), st.binary(), st.lists(st.text())))
def test_anything_can_be_quoted(value):
    assert len(quoted(value)) <= 10 * 200 + 40
    assert quoted(value).isprintable()
