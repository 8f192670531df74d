"""One node over DDS: what its parameters take, and when they count."""

import subprocess
import sys

import pytest
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterType, ParameterValue
from rcl_interfaces.srv import DescribeParameters, ListParameters, SetParameters, SetParametersAtomically
from rig import running

from ovs_ros.options import node_options


def message(name, value):
    kinds = {
        bool: (ParameterType.PARAMETER_BOOL, "bool_value"),
        int: (ParameterType.PARAMETER_INTEGER, "integer_value"),
        float: (ParameterType.PARAMETER_DOUBLE, "double_value"),
        str: (ParameterType.PARAMETER_STRING, "string_value"),
    }
    kind, field = kinds[type(value)]
    return ParameterMessage(name=name, value=ParameterValue(type=kind, **{field: value}))


def set_parameter(robot, name, value):
    request = SetParameters.Request(parameters=[message(name, value)])
    return robot.call(SetParameters, "ovs/set_parameters", request).results[0]


def test_the_descriptors_are_what_the_declarations_say(vocabulary):
    with running(vocabulary) as robot:
        listed = robot.call(ListParameters, "ovs/list_parameters", ListParameters.Request()).result.names
        names = [n for n in listed if not n.startswith(("qos_overrides", "use_sim", "start_type"))]
        assert set(names) == set(node_options())
        assert "qos_overrides./image.subscription.reliability" in listed
        described = robot.call(
            DescribeParameters, "ovs/describe_parameters", DescribeParameters.Request(names=names)
        ).descriptors
        for descriptor in described:
            option = node_options()[descriptor.name]
            assert descriptor.description == option.text
            assert descriptor.read_only is not option.live
            assert all(choice in descriptor.additional_constraints for choice in option.choices)
            ranges = [*descriptor.floating_point_range, *descriptor.integer_range]
            bounds = [] if option.limits is None else [option.limits]
            assert [(one.from_value, one.to_value) for one in ranges] == bounds


def test_whole_numbers_and_an_unquoted_off_are_taken_at_the_start_and_later(vocabulary):
    with running(vocabulary, sync_slop=1, temporal_filter=False, temporal_filter_time=2) as robot:
        assert set_parameter(robot, "threshold", 1).successful
        robot.until(
            lambda: [info for info in robot.got["semantic/label_info"] if info.threshold == 1.0],
            "the label_info of the new threshold",
        )
        assert set_parameter(robot, "temporal_filter", "flow").successful
        assert set_parameter(robot, "temporal_filter", False).successful
        robot.segment(1)
        assert "temporal_filter" not in robot.of_stamp("semantic/categories", 1).stages


def test_parameters_cannot_be_deleted(vocabulary):
    with running(vocabulary) as robot:
        parameter = ParameterMessage(name="threshold", value=ParameterValue())
        request = SetParameters.Request(parameters=[parameter])
        (result,) = robot.call(SetParameters, "ovs/set_parameters", request).results
        assert not result.successful and "cannot be deleted" in result.reason
        robot.segment(1)
        robot.of_stamp("semantic/categories", 1)


def test_parameters_that_are_set_together_count_all_or_none(vocabulary):
    with running(vocabulary) as robot:
        request = SetParametersAtomically.Request(
            parameters=[message("threshold", 0.875), message("temporal_filter", "median")]
        )
        result = robot.call(SetParametersAtomically, "ovs/set_parameters_atomically", request).result
        assert not result.successful and "expected temporal_filter to be one of" in result.reason
        assert set_parameter(robot, "max_categories", 1).successful
        robot.segment(1)
        assert robot.of_stamp("semantic/categories", 1).unknown_share == 0


def test_parameters_change_between_frames_and_bad_values_are_refused(vocabulary):
    with running(vocabulary) as robot:
        unsure = [["orange", "orange"]]  # A little red, as this vocabulary goes.
        robot.segment(1, unsure)
        assert robot.of_stamp("semantic/categories", 1).unknown_share == 0
        assert set_parameter(robot, "threshold", 0.875).successful
        robot.segment(2, unsure)
        assert robot.of_stamp("semantic/categories", 2).unknown_share > 0.9
        robot.until(
            lambda: [info for info in robot.got["semantic/label_info"] if info.threshold == 0.875],
            "the label_info of the new threshold",
        )
        for name, value in [
            ("threshold", 1.5),
            ("temperature", -0.1),
            ("max_categories", 0),
            ("points", "sometimes"),
            ("postprocess", "hard"),
            ("model", "quality"),
            ("threshold", "high"),
        ]:
            result = set_parameter(robot, name, value)
            assert not result.successful, name
            assert name in result.reason
        assert set_parameter(robot, "threshold", 0.0).successful
        assert set_parameter(robot, "max_categories", 1).successful
        robot.segment(3)
        assert len(robot.of_stamp("semantic/categories", 3).ids) == 1


IMPOSSIBLE = {
    "temperature:=-7.0": "temperature",
    "points:=perhaps": "auto, always, never",
    "select:=3": "expected select to be true or false, got 3",
    "autostart:=1": "expected autostart to be true or false, got 1",
    "threads:=-1": "threads",
    "image_transport:=h264": "run 'ros2 run image_transport republish",
    "cameras:=[front, 2nd]": "got '2nd'",
    "model:=7": "expected model to be text",
}
# One process for each, but only one of them loads the libraries.
STARTS = """
import os, sys
from ovs_ros.ros.node import main
for argument in sys.argv[1:]:
    if not os.fork():
        sys.argv = ["ovs_node", "--ros-args", "-p", argument]
        sys.exit(main())
    code = os.waitstatus_to_exitcode(os.wait()[1])
    print(f"ended with {code}", end="\\0", file=sys.stderr, flush=True)
"""


@pytest.fixture(scope="module")
def ends():
    """What the node writes for each of IMPOSSIBLE, and its exit status."""
    command = [sys.executable, "-c", STARTS, *IMPOSSIBLE]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60).stderr.split("\0")
    return dict(zip(IMPOSSIBLE, told, strict=False))


@pytest.mark.parametrize("argument", IMPOSSIBLE)
def test_an_impossible_parameter_at_the_start_is_one_clear_line(ends, argument):
    told = ends[argument]
    assert told.endswith("ended with 1")
    assert IMPOSSIBLE[argument] in told and "Traceback" not in told


def test_a_misspelt_parameter_is_told(vocabulary, capfd):
    with running(vocabulary, treshold=0.5):
        assert "'treshold' does not exist and is ignored; did you mean 'threshold'?" in capfd.readouterr().err
