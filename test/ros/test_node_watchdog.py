"""A model that hangs, and a worker whose thread dies: what the node says, and that it can always be ended."""

import os
import signal
import threading
from pathlib import Path

import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from domain import own_context
from fakes import ColorImageEncoder, ColorTextEncoder, color_image, color_segmenter
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from node_process import NodeProcess
from rclpy.node import Node
from rig import DEADLINE_S, PICTURE, SENDING, rgb_message, running, stamp_ms
from sensor_msgs.msg import Image

from ovs_ros.model import Model
from ovs_ros.ros import diagnostics, worker
from ovs_ros.segmenter import Segmenter
from ovs_ros.srv import SetVocabulary

HANGS = pytest.mark.fault(
    "the model hangs",
    "/diagnostics warns, then tells ERROR with the place; the node can be deactivated, cleaned up and ended "
    "within 5 s, and configured anew",
)
DIES = pytest.mark.fault("the worker's thread dies", "it is started again and counted; ERROR in /diagnostics")


class Hanging:
    """Lets an image encoder hang from the first frame on, until it is let go."""

    def __init__(self):
        self.hangs, self.go_on = threading.Event(), threading.Event()

    def __call__(self):
        self.hangs.set()
        assert self.go_on.wait(DEADLINE_S * 2)


def change_state(robot, name):
    transition = Transition(id=getattr(Transition, f"TRANSITION_{name}"))
    return robot.call(ChangeState, "ovs/change_state", ChangeState.Request(transition=transition)).success


def told(robot, level, text):
    """Wait for a status of the node with this level and text."""
    robot.until(
        lambda: any(
            status.level == level and text in status.message
            for message in robot.got["/diagnostics"]
            for status in message.status
        ),
        f"{text!r} in /diagnostics",
    )


@HANGS
def test_diagnostics_tell_where_a_frame_hangs_and_that_it_goes_on(vocabulary, monkeypatch):
    monkeypatch.setattr(diagnostics, "SLOW_S", 0.5)
    monkeypatch.setattr(diagnostics, "HANGING_S", 2.5)
    hanging = Hanging()
    with running(vocabulary, on_backbone=hanging) as robot:
        robot.listen("/diagnostics")
        robot.image(1)
        told(robot, DiagnosticStatus.WARN, "in encode() in model.py")
        told(robot, DiagnosticStatus.ERROR, "hangs, in encode() in model.py")
        hanging.go_on.set()
        robot.labels(1)
        robot.got["/diagnostics"].clear()
        robot.until(
            lambda: any(
                "at work" not in status.message
                for message in robot.got["/diagnostics"]
                for status in message.status
            ),
            "the end of it",
        )


@HANGS
def test_a_node_whose_model_hangs_is_deactivated_and_configured_anew(vocabulary, monkeypatch):
    monkeypatch.setattr(worker, "STOPPING_S", 0.2)
    hanging = Hanging()
    models = iter([hanging, None])
    with running(vocabulary, lambda load: color_segmenter(next(models))) as robot:
        robot.image(1)
        robot.until(hanging.hangs.is_set, "the model")
        assert change_state(robot, "DEACTIVATE")
        assert not change_state(robot, "ACTIVATE")  # Two threads must not use one model.
        assert "expected the last frame to have ended" in robot.node.failure
        assert change_state(robot, "CLEANUP")
        assert change_state(robot, "CONFIGURE") and change_state(robot, "ACTIVATE")
        robot.connected()
        robot.segment(2)
        hanging.go_on.set()
        for ms in range(3, 8):
            robot.segment(ms)
        assert [stamp_ms(message) for message in robot.got["semantic/image_raw"]] == list(range(2, 8))
        assert robot.camera.statistics.summary().dropped == {}


@HANGS
def test_when_the_frame_ended_after_all_the_node_is_activated_again(vocabulary, monkeypatch):
    monkeypatch.setattr(worker, "STOPPING_S", 0.2)
    hanging = Hanging()
    with running(vocabulary, on_backbone=hanging) as robot:
        robot.image(1)
        robot.until(hanging.hangs.is_set, "the model")
        assert change_state(robot, "DEACTIVATE")
        hanging.go_on.set()
        robot.until(lambda: change_state(robot, "ACTIVATE"), "the end of the frame")
        robot.connected()
        robot.segment(2)


@HANGS
def test_words_change_again_after_a_text_encoder_hung(vocabulary, monkeypatch):
    class Text(ColorTextEncoder):
        def encode(self, texts):
            if any("molasses" in text for text in texts):
                hanging()
            return super().encode(texts)

    hanging = Hanging()
    with running(vocabulary, lambda load: Segmenter(Model(ColorImageEncoder(), Text()))) as robot:
        request = SetVocabulary.Request(mode=SetVocabulary.Request.ADD, names=["molasses"])
        pending = robot.ask(SetVocabulary, "ovs/set_vocabulary", request)
        robot.until(hanging.hangs.is_set, "the text encoder")
        for name in ("DEACTIVATE", "CLEANUP", "CONFIGURE", "ACTIVATE"):
            assert change_state(robot, name)
        assert robot.until(lambda: pending.done() and pending.result(), "the reply").success is False
        request = SetVocabulary.Request(mode=SetVocabulary.Request.ADD, names=["cyan"])
        reply = robot.call(SetVocabulary, "ovs/set_vocabulary", request)
        assert (reply.success, reply.ids[-1]) == (True, 3)
        hanging.go_on.set()


@DIES
def test_a_worker_whose_thread_dies_is_started_again_and_counted(vocabulary):
    deaths = []

    def die():
        if len(deaths) < 2:
            deaths.append(1)
            raise SystemExit("killed by the model")

    with running(vocabulary, on_backbone=die) as robot:
        robot.listen("/diagnostics")
        for ms in (1, 2):
            robot.image(ms)
            robot.until(lambda count=ms: len(deaths) == count, "the death")
            told(robot, DiagnosticStatus.ERROR, f"died and was started again, {ms} times")
        robot.segment(3)


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from ovs_ros.ros import interrupts
interrupts.catch()
import ctypes
import fakes
import ovs_ros
from ovs_ros.ros.node import main

def hang():
    print("it hangs", flush=True)
    ctypes.CDLL(None).sleep(600)  # Native code, as in a model.

ovs_ros.load = lambda name, **options: fakes.color_segmenter(hang)
main()
"""


@HANGS
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_process_whose_model_hangs(tmp_path, number):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parents[1])))
    with own_context() as context:
        environment = {**os.environ, "ROS_DOMAIN_ID": str(context.get_domain_id())}
        process = NodeProcess(tmp_path / "log", environment, {"lazy": "false"}, [str(script)])
        camera = Node("camera", context=context)
        images = camera.create_publisher(Image, "image", SENDING)
        try:
            process.until(
                lambda: images.publish(rgb_message(1, color_image(PICTURE))) or "hangs" in process.said
            )
            status, seconds = process.end(number)
        finally:
            process.popen.kill()
            process.popen.wait()
            camera.destroy_node()
    assert status == 0, process.said
    assert seconds < 8, process.said
    assert "Traceback" not in process.said
