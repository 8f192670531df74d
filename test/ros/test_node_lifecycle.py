"""One node over DDS: its life, its parameters, its diagnostics, and what it does under overload."""

import platform
import threading
from time import time

from fakes import color_segmenter
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rig import DEADLINE_S, running, stamp_ms

from ovs_ros.srv import SetVocabulary


def state(robot):
    return robot.call(GetState, "ovs/get_state", GetState.Request()).current_state.id


def change(robot, transition):
    request = ChangeState.Request(transition=Transition(id=transition))
    return robot.call(ChangeState, "ovs/change_state", request).success


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
    segmenters = iter([ValueError("no such model 'fast'"), RuntimeError("a fault of the node's own")])

    def make(load):
        for error in segmenters:
            raise error
        return color_segmenter()

    with running(vocabulary, make, autostart=False) as robot:
        robot.listen("/diagnostics")
        assert not change(robot, Transition.TRANSITION_CONFIGURE)
        assert state(robot) == State.PRIMARY_STATE_UNCONFIGURED
        robot.until(
            lambda: (
                (b"\x02", "unconfigured: configure failed: no such model 'fast'")
                in [(m.status[0].level, m.status[0].message) for m in robot.got["/diagnostics"]]
            ),
            "the error in the diagnostics",
        )
        said = capfd.readouterr().err
        assert "'ros2 lifecycle set /ovs configure' loads the model" in said
        assert "configure failed: no such model 'fast'" in said and "Traceback" not in said
        assert not change(robot, Transition.TRANSITION_CONFIGURE)
        said = capfd.readouterr().err
        assert "configure failed: a fault of the node's own" in said and "Traceback" in said
        assert change(robot, Transition.TRANSITION_CONFIGURE)
        robot.until(lambda: robot.got["/diagnostics"][-1].status[0].level == b"\x00", "the end of the error")


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
            robot.until(lambda ms=ms: robot.camera.statistics.images == ms + 1, "the arrival")
        go_on.release(2)
        robot.labels(20)
        assert [stamp_ms(m) for m in robot.got["semantic/image_raw"]] == [0, 20]
        assert robot.camera.statistics.summary().dropped == {"replaced by a newer one": 19}


def test_diagnostics(vocabulary):
    with running(vocabulary) as robot:
        robot.listen("/diagnostics")
        robot.segment(round(time() * 1000))

        def figures():
            for message in robot.got["/diagnostics"]:
                values = {value.key: value.value for value in message.status[0].values}
                if values["rate [Hz]"] != "0.0":
                    return message.status[0], values
            return None

        status, values = robot.until(figures, "diagnostics of a frame")
        assert status.name == "/ovs: segmentation"
        assert status.level == b"\x00" and status.message == "segmenting"
        assert values["model"] == "fake-colours" and values["device"] == "cpu"
        assert status.hardware_id == f"{platform.node()} cpu"
        assert float(values["latency p95 [ms]"]) >= float(values["latency p50 [ms]"]) > 0
        assert (values["vocabulary version"], values["vocabulary size"]) == ("1", "3")


def test_images_lost_on_the_way_reach_log_and_diagnostics(vocabulary, capfd):
    with running(vocabulary) as robot:
        robot.listen("/diagnostics")
        robot.segment(1)
        robot.camera.statistics.lost(9)
        robot.until(
            lambda: any(m.status[0].level == b"\x01" for m in robot.got["/diagnostics"]), "the warning"
        )
        assert "90% of the images from /image are lost on the way" in capfd.readouterr().err
