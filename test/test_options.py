"""What is declared once is the same everywhere."""

from array import array
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ovs_ros.options import (
    LoadOptions,
    NodeOptions,
    SegmenterOptions,
    declared,
    node_options,
    written,
)

CHECKOUT = Path(__file__).parents[1]
GROUPS = (LoadOptions, SegmenterOptions, NodeOptions)


def test_the_parameter_file_and_the_docs_are_what_the_declarations_say():
    files = written(CHECKOUT)
    assert {path.suffix for path in files} == {".yaml", ".md"}
    for path, text in files.items():
        assert path.read_text() == text, f"{path} is out of date: run python -m ovs_ros.options"


def test_the_parameter_file_gives_every_parameter_its_default():
    file = yaml.safe_load((CHECKOUT / "config" / "ovs.yaml").read_text())
    given = {
        name: node_options()[name].checked(value) for name, value in file["/**"]["ros__parameters"].items()
    }
    assert given == {name: option.default for name, option in node_options().items()}


def test_a_robot_has_at_most_45_parameters_and_no_name_means_two_things():
    assert 14 <= len(node_options()) <= 45
    names = [one.name for group in GROUPS for one in fields(group)]
    assert len(names) == len(set(names))


def test_only_what_is_between_the_markers_changes(tmp_path):
    page = tmp_path / "docs" / "guide" / "parameters.md"
    page.parent.mkdir(parents=True)
    page.write_text("before\n<!-- parameters: begin -->\nstale words\n<!-- parameters: end -->\nafter\n")
    text = written(tmp_path)[page]
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "stale words" not in text
    page.write_text(text)
    assert written(tmp_path)[page] == text


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_says_what_it_does_and_takes_its_default(group):
    for option in declared(group).values():
        assert option.help.endswith(".") and option.help in option.text
        assert option.checked(option.default) == option.default
        if option.kind in (int, float) and not option.many:
            assert option.limits[0] <= option.default <= option.limits[1]


NUMBERS = [o for group in GROUPS for o in declared(group).values() if o.kind in (int, float) and not o.many]


@given(st.sampled_from(NUMBERS), st.integers(-10, 10**6))
def test_whole_numbers_are_taken_for_every_number_in_its_range(option, value):
    if option.limits[0] <= value <= option.limits[1]:
        taken = option.checked(value)
        assert taken == value and type(taken) is option.kind
    else:
        with pytest.raises(ValueError, match=f"expected {option.name} from"):
            option.checked(value)


@pytest.mark.parametrize("value", [True, "1", None, [1], float("nan"), float("inf")])
@pytest.mark.parametrize("option", NUMBERS, ids=lambda option: option.name)
def test_what_is_no_number_is_refused_by_name(option, value):
    with pytest.raises((TypeError, ValueError), match=f"expected {option.name} "):
        option.checked(value)


def test_yamls_false_is_taken_for_off_where_that_is_a_choice():
    assert NodeOptions(temporal_filter=False).temporal_filter == "off"
    assert SegmenterOptions(validation=False).validation == "off"
    with pytest.raises(ValueError, match="expected points to be one of auto, always, never, got False"):
        NodeOptions(points=False)
    with pytest.raises(ValueError, match="expected temporal_filter to be one of off, flow, pose, got True"):
        NodeOptions(temporal_filter=True)


@pytest.mark.parametrize("given", [2, 2.0, [2], (2.0,), np.array([2.0]), array("d", [2])])
def test_a_list_may_be_one_value(given):
    assert NodeOptions(priorities=given).priorities == (2.0,)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"cameras": []}, "expected cameras to be a list with items"),
        ({"cameras": [7]}, "expected cameras to be text"),
        ({"cameras": None}, "expected cameras to be text"),
        ({"cameras": ["front", "front"]}, "different names, got front, front"),
        ({"cameras": ["2nd"]}, "got '2nd'"),
        ({"cameras": ["front left"]}, "got 'front left'"),
        ({"cameras": ["/front"]}, "got '/front'"),
        ({"priorities": [1.0, 0.0]}, "expected priorities from 0.01 to 100, got 0.0"),
        ({"max_rate": [1.0, 2.0]}, "expected max_rate to have one value, got 2"),
        ({"rotation": [45]}, "expected rotation to be 0, 90, 180 or 270, got 45"),
        ({"rotation": [360]}, "expected rotation from 0 to 270, got 360"),
        ({"rotation": [0, 90]}, "expected rotation to have one value, got 2"),
        ({"cameras": ["a", "b", "c"], "priorities": [1.0, 2.0]}, "one for each of 3 cameras, got 2"),
    ],
)
def test_cameras_that_cannot_be_are_refused(given, error):
    with pytest.raises((TypeError, ValueError), match=error):
        NodeOptions(**given)


@pytest.mark.parametrize(("given", "expected"), [(3, (3.0, 3.0)), ([3, 1], (3.0, 1.0))])
def test_one_number_is_for_all_cameras(given, expected):
    options = NodeOptions(cameras=["front", "left/rear"], priorities=given)
    assert options.each(options.priorities) == expected
