"""One node over DDS: its life, its parameters, its diagnostics, and what it does under overload."""

import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
from fakes import color_segmenter
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterType, ParameterValue
from rcl_interfaces.srv import DescribeParameters, ListParameters, SetParameters
from rig import DEADLINE_S, running, stamp_ms

from ovs_ros.srv import SetVocabulary


def state(robot):
    return robot.call(GetState, "ovs/get_state", GetState.Request()).current_state.id


def change(robot, transition):
    request = ChangeState.Request(transition=Transition(id=transition))
    return robot.call(ChangeState, "ovs/change_state", request).success


def set_parameter(robot, name, value):
    kinds = {
        bool: (ParameterType.PARAMETER_BOOL, "bool_value"),
        int: (ParameterType.PARAMETER_INTEGER, "integer_value"),
        float: (ParameterType.PARAMETER_DOUBLE, "double_value"),
        str: (ParameterType.PARAMETER_STRING, "string_value"),
    }
    kind, field = kinds[type(value)]
    parameter = ParameterMessage(name=name, value=ParameterValue(type=kind, **{field: value}))
    return robot.call(
        SetParameters, "ovs/set_parameters", SetParameters.Request(parameters=[parameter])
    ).results[0]


def test_every_state_and_back(vocabulary):
    with running(vocabulary, autostart=False) as robot:
        assert state(robot) == State.PRIMARY_STATE_UNCONFIGURED
        assert change(robot, Transition.TRANSITION_CONFIGURE)
        assert state(robot) == State.PRIMARY_STATE_INACTIVE
        assert robot.helper.count_subscribers("image") == 0
        for ms in (1, 2):
            assert change(robot, Transition.TRANSITION_ACTIVATE)
            robot.connected()
            robot.segment(ms)
            assert change(robot, Transition.TRANSITION_DEACTIVATE)
            robot.until(lambda: robot.helper.count_subscribers("image") == 0, "the end of the subscription")
        assert change(robot, Transition.TRANSITION_CLEANUP)
        assert change(robot, Transition.TRANSITION_CONFIGURE)
        assert change(robot, Transition.TRANSITION_ACTIVATE)
        robot.connected()
        robot.segment(3)
        assert change(robot, Transition.TRANSITION_ACTIVE_SHUTDOWN)
        assert state(robot) == State.PRIMARY_STATE_FINALIZED


def test_ids_stay_taken_over_a_cleanup(vocabulary):
    with running(vocabulary) as robot:
        request = SetVocabulary.Request(mode=SetVocabulary.Request.REPLACE, names=["cyan"])
        assert robot.call(SetVocabulary, "ovs/set_vocabulary", request).ids.tolist() == [3]
        for transition in ("DEACTIVATE", "CLEANUP", "CONFIGURE", "ACTIVATE"):
            assert change(robot, getattr(Transition, f"TRANSITION_{transition}"))
        robot.connected()
        request.names = ["magenta", "cyan"]
        reply = robot.call(SetVocabulary, "ovs/set_vocabulary", request)
        assert (reply.ids.tolist(), reply.version) == ([4, 3], 4)


def test_a_model_that_does_not_load_leaves_the_node_unconfigured_and_says_why(vocabulary, capfd):
    segmenters = iter([ValueError("no such model 'fast'")])

    def make(load):
        for error in segmenters:
            raise error
        return color_segmenter()

    with running(vocabulary, make, autostart=False) as robot:
        assert not change(robot, Transition.TRANSITION_CONFIGURE)
        assert state(robot) == State.PRIMARY_STATE_UNCONFIGURED
        said = capfd.readouterr().err
        assert "on_configure failed: no such model 'fast'" in said and "Traceback" in said
        assert change(robot, Transition.TRANSITION_CONFIGURE)


def test_an_activation_that_fails_leaves_nothing_running(vocabulary, capfd):
    override = {"qos_overrides./depth.subscription.reliability": "perhaps"}
    with running(vocabulary, autostart=False, **override) as robot:
        assert change(robot, Transition.TRANSITION_CONFIGURE)
        before = threading.active_count()
        for _ in range(2):
            assert not change(robot, Transition.TRANSITION_ACTIVATE)
            assert state(robot) == State.PRIMARY_STATE_INACTIVE
            assert threading.active_count() == before
            robot.until(lambda: robot.helper.count_subscribers("image") == 0, "no subscription")
        assert "perhaps" in capfd.readouterr().err


def test_a_vocabulary_that_is_not_there(capfd):
    with running("ofice", autostart=False) as robot:
        assert not change(robot, Transition.TRANSITION_CONFIGURE)
        assert "one of home, office, street, warehouse, got 'ofice'" in capfd.readouterr().err


def test_a_vocabulary_file_with_an_unknown_key(tmp_path, capfd):
    path = tmp_path / "words.yaml"
    path.write_text("categories: [desk]\nnegative: [sky]\n")
    with running(str(path), autostart=False) as robot:
        assert not change(robot, Transition.TRANSITION_CONFIGURE)
        said = capfd.readouterr().err
        assert "words.yaml" in said and "negatives" in said


def test_every_parameter_is_described(vocabulary):
    with running(vocabulary) as robot:
        listed = robot.call(ListParameters, "ovs/list_parameters", ListParameters.Request()).result.names
        names = [n for n in listed if not n.startswith(("qos_overrides", "use_sim", "start_type"))]
        described = robot.call(
            DescribeParameters, "ovs/describe_parameters", DescribeParameters.Request(names=names)
        ).descriptors
        assert {"threshold", "select", "max_categories", "model", "vocabulary"} <= set(names)
        for descriptor in described:
            assert len(descriptor.description) > 10, descriptor.name
            if descriptor.type == ParameterType.PARAMETER_DOUBLE:
                assert descriptor.floating_point_range, descriptor.name
            if descriptor.type == ParameterType.PARAMETER_INTEGER:
                assert descriptor.integer_range, descriptor.name
        assert "qos_overrides./image.subscription.reliability" in listed


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
            assert result.reason
        assert robot.node._config.settings.segmenter.threshold == 0.875
        assert set_parameter(robot, "threshold", 0.0).successful
        assert set_parameter(robot, "max_categories", 1).successful
        robot.segment(3)
        assert len(robot.of_stamp("semantic/categories", 3).ids) == 1


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ("temperature:=-7.0", "temperature"),
        ("points:=perhaps", "auto, always, never"),
        ("select:=3", "select"),
    ],
)
def test_an_impossible_parameter_at_the_start_is_one_clear_line(argument, text):
    command = [sys.executable, "-m", "ovs_ros.ros.node", "--ros-args", "-p", argument]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert text in result.stderr and "Traceback" not in result.stderr


def test_a_misspelt_parameter_is_told(vocabulary, capfd):
    with running(vocabulary, treshold=0.5):
        assert "'treshold' does not exist and is ignored; did you mean 'threshold'?" in capfd.readouterr().err


def test_under_overload_the_newest_frame_is_next_and_the_others_are_counted(vocabulary):
    entered, go_on = threading.Semaphore(0), threading.Semaphore(0)

    def on_backbone():
        entered.release()
        assert go_on.acquire(timeout=DEADLINE_S)

    with running(vocabulary, on_backbone=on_backbone) as robot:
        robot.image(0)
        robot.until(lambda: entered.acquire(blocking=False), "the first frame at work")
        for ms in range(1, 21):
            robot.image(ms)
            # One by one, so that the network replaces none of them.
            robot.until(lambda ms=ms: len(robot.node._statistics._arrivals) == ms + 1, "the arrival")
        go_on.release(2)
        robot.labels(20)
        assert [stamp_ms(m) for m in robot.got["semantic/image_raw"]] == [0, 20]
        assert robot.node._statistics.summary().dropped == {"replaced by a newer one": 19}


def test_diagnostics(vocabulary):
    with running(vocabulary) as robot:
        robot.listen("/diagnostics")
        robot.segment(1)

        def figures():
            for message in robot.got["/diagnostics"]:
                values = {value.key: value.value for value in message.status[0].values}
                if values["rate [Hz]"] != "0.0":
                    return message.status[0], values
            return None

        status, values = robot.until(figures, "diagnostics of a frame")
        assert status.name == "/ovs: segmentation"
        assert status.level == b"\x00" and status.message == "segmenting"
        assert values["model"] == "fake-colours" and status.hardware_id == values["device"] == "cpu"
        assert float(values["latency p95 [ms]"]) >= float(values["latency p50 [ms]"]) > 0
        assert (values["vocabulary version"], values["vocabulary size"]) == ("1", "3")


def test_images_lost_on_the_way_reach_log_and_diagnostics(vocabulary, capfd):
    with running(vocabulary) as robot:
        robot.listen("/diagnostics")
        robot.segment(1)
        robot.node._on_lost(SimpleNamespace(total_count_change=9))
        robot.until(
            lambda: any(m.status[0].level == b"\x01" for m in robot.got["/diagnostics"]), "the warning"
        )
        assert "90% of the images from /image are lost on the way" in capfd.readouterr().err
