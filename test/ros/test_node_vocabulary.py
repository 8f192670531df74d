"""One node over DDS: changing the words while frames come in."""

import re
import threading

import numpy as np
import pytest
from fakes import DIM, ColorImageEncoder, ColorTextEncoder, color_image, color_segmenter
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from PIL import Image
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rig import DEADLINE_S, pixels, running, stamp_ms
from std_srvs.srv import Trigger

from ovs_ros.model import Model
from ovs_ros.ros import changes
from ovs_ros.ros.changes import BUSY, MOST_WAITING, RESET, STUCK
from ovs_ros.ros.services import LOCKED
from ovs_ros.segmenter import Segmenter
from ovs_ros.srv import Embed, GetVocabulary, LoadVocabulary, SetVocabulary, Teach
from ovs_ros.vocabulary.prompts import WORDS_A_BATCH

Request = SetVocabulary.Request


@pytest.fixture
def robot(vocabulary):
    with running(vocabulary) as robot:
        yield robot


def add(*names):
    return Request(mode=Request.ADD, names=names)


def set_vocabulary(robot, mode, *names, **more):
    return robot.call(SetVocabulary, "ovs/set_vocabulary", Request(mode=mode, names=names, **more))


def test_replace_add_remove_and_reset(robot):
    reply = set_vocabulary(robot, Request.REPLACE, "yellow", "red")
    assert (reply.success, reply.version) == (True, 2)
    assert dict(zip(reply.names, reply.ids, strict=True)) == {"yellow": 3, "red": 0}
    assert pixels(robot.segment(1, [["yellow", "red"]]))[5, [5, 60]].tolist() == [3, 0]

    reply = set_vocabulary(robot, Request.ADD, "cyan")
    assert dict(zip(reply.names, reply.ids, strict=True)) == {"yellow": 3, "red": 0, "cyan": 4}
    reply = set_vocabulary(robot, Request.REMOVE, "red")
    assert list(reply.names) == ["yellow", "cyan"]

    reply = robot.call(Trigger, "ovs/reset_vocabulary", Trigger.Request())
    assert reply.success and "version 5 with 3 categories" in reply.message
    reply = robot.call(GetVocabulary, "ovs/get_vocabulary", GetVocabulary.Request())
    assert (reply.version, list(reply.names), list(reply.ids)) == (5, ["red", "green", "blue"], [0, 1, 2])
    assert (list(reply.negatives), reply.unknown_id) == (["black"], 255)
    assert list(reply.prompts) == [""] * 3 and np.isnan(reply.thresholds).all()


def test_prompts_and_thresholds_reach_the_pixels(robot):
    reply = set_vocabulary(
        robot, Request.REPLACE, "sun", "sky", prompts=["a yellow thing|yellow", "cyan"], thresholds=[0.9, 0.9]
    )
    assert reply.success, reply.message
    assert pixels(robot.segment(1, [["yellow", "purple"]]))[5, [5, 60]].tolist() == [3, 255]
    reply = robot.call(GetVocabulary, "ovs/get_vocabulary", GetVocabulary.Request())
    assert list(reply.prompts) == ["a yellow thing|yellow", "cyan"]
    assert list(reply.thresholds) == pytest.approx([0.9, 0.9])


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (Request(mode=9, names=["cyan"]), "expected mode"),
        (Request(mode=Request.ADD, names=["cyan", "red"]), "already"),
        (Request(mode=Request.REPLACE), "at least one"),
        (Request(mode=Request.REMOVE, names=["cyan"]), "cyan"),
        (Request(mode=Request.ADD, names=["cyan"], thresholds=[2.0]), "0 to 1"),
    ],
)
def test_an_impossible_request_changes_nothing(robot, request_, text):
    robot.segment(1)
    reply = robot.call(SetVocabulary, "ovs/set_vocabulary", request_)
    assert not reply.success
    assert text in reply.message
    assert (reply.version, list(reply.names)) == (1, ["red", "green", "blue"])
    robot.segment(2)
    assert robot.of_stamp("semantic/categories", 2).version == 1
    robot.until(lambda: robot.got["semantic/label_info"], "the first label_info")
    assert len(robot.got["semantic/label_info"]) == 1


def test_a_change_is_announced_even_if_no_frame_comes(robot):
    robot.until(lambda: robot.got["semantic/label_info"], "the first label_info")
    set_vocabulary(robot, Request.ADD, "cyan")
    robot.until(lambda: len(robot.got["semantic/label_info"]) == 2, "the second label_info")
    assert robot.got["semantic/label_info"][-1].class_map[-1].class_name == "cyan"


def test_the_linter_warns_in_the_reply(robot):
    reply = set_vocabulary(robot, Request.ADD, "object")
    assert reply.success
    assert "'object' fits everything" in reply.message


def test_changes_while_streaming_drop_no_frame_and_mix_no_versions(robot):
    """Every frame is sent when the one before has come out, so that none may be missing."""
    words = [["yellow", "red"], ["red", "green", "blue"], ["cyan"]]
    pending = None
    changes = 0
    for ms in range(60):
        if pending is None or pending.done():
            assert pending is None or pending.result().success
            request = Request(mode=Request.REPLACE, names=words[changes % 3])
            pending = robot.ask(SetVocabulary, "ovs/set_vocabulary", request)
            changes += 1
        robot.segment(ms, [["red", "yellow"]])
    robot.of_stamp("semantic/categories", 59)

    assert [stamp_ms(m) for m in robot.got["semantic/image_raw"]] == list(range(60))
    assert robot.camera.statistics.summary().dropped == {}
    versions = [m.version for m in robot.got["semantic/categories"]]
    assert versions == sorted(versions) and len(set(versions)) > 5

    announced = {255: "unknown"}
    masks = {}
    for topic, message in robot.order:
        if topic == "semantic/label_info":
            announced |= {entry.class_id: entry.class_name for entry in message.class_map}
        elif topic == "semantic/image_raw":
            masks[stamp_ms(message)] = set(np.unique(pixels(message)).tolist())
            assert masks[stamp_ms(message)] <= announced.keys()
    for frame in robot.got["semantic/categories"]:
        allowed = ["red", "green", "blue"] if frame.version == 1 else words[(frame.version - 2) % 3]
        assert set(frame.names) <= set(allowed)
        names = dict(zip(frame.ids, frame.names, strict=True))
        assert names.items() <= announced.items()
        assert masks[stamp_ms(frame)] <= {*names, 255}


def test_every_output_tells_the_session(robot):
    robot.segment(1)
    set_vocabulary(robot, Request.ADD, "cyan")
    robot.segment(2)
    infos = robot.until(
        lambda: len(robot.got["semantic/label_info"]) == 2 and robot.got["semantic/label_info"]
    )
    reply = robot.call(GetVocabulary, "ovs/get_vocabulary", GetVocabulary.Request())
    assert re.fullmatch("[0-9a-f]{8}", reply.session)
    assert [info.header.frame_id for info in infos] == [f"{reply.session}/1", f"{reply.session}/2"]
    assert robot.of_stamp("semantic/categories", 2).session == reply.session


def test_negative_words_change_over_the_service(robot):
    assert pixels(robot.segment(1, [["yellow"]]))[5, 5] != 255
    assert set_vocabulary(robot, Request.NEGATIVES, "yellow").success
    assert pixels(robot.segment(2, [["yellow"]]))[5, 5] == 255
    reply = robot.call(GetVocabulary, "ovs/get_vocabulary", GetVocabulary.Request())
    assert (list(reply.negatives), list(reply.names)) == (["yellow"], ["red", "green", "blue"])


def test_a_vocabulary_is_loaded_by_name(vocabulary, tmp_path):
    Image.fromarray(color_image([["purple", "cyan"]])).save(tmp_path / "shown.png")
    (tmp_path / "bay.yaml").write_text(
        "categories: [yellow, {name: bay 7, examples_only: true, examples: "
        "[{image: shown.png, box: [0, 0, 32, 32]}]}]\nnegatives: [white]\n"
    )
    with running(vocabulary, vocabulary_folder=str(tmp_path)) as robot:

        def load(name):
            return robot.call(LoadVocabulary, "ovs/load_vocabulary", LoadVocabulary.Request(name=name))

        reply = load("bay")
        assert (reply.success, reply.version, list(reply.names)) == (True, 2, ["yellow", "bay 7"]), (
            reply.message
        )
        assert pixels(robot.segment(1, [["yellow", "purple", "white"]]))[5, [5, 37, 69]].tolist() == [
            3,
            4,
            255,
        ]
        refused = load("../bay")
        assert not refused.success and "leave folders out" in refused.message and refused.version == 2
        assert load("home").success
        assert robot.call(Trigger, "ovs/reset_vocabulary", Trigger.Request()).success
        got = robot.call(GetVocabulary, "ovs/get_vocabulary", GetVocabulary.Request())
        assert (list(got.names), list(got.negatives)) == (["red", "green", "blue"], ["black"])


def test_texts_are_embedded_within_limits(robot):
    def embed(*texts):
        return robot.call(Embed, "ovs/embed", Embed.Request(texts=texts))

    reply = embed("red", "a photo of blue")
    assert (reply.success, reply.dimensions, reply.model) == (True, DIM, color_segmenter().model.identity)
    expected = ColorTextEncoder().encode(["red", "blue"])
    assert np.allclose(np.reshape(reply.embeddings, (2, DIM)), expected)
    for texts, message in (((), "1 to 256 texts"), (["red"] * 257, "got 257"), ([" "], "letter")):
        reply = embed(*texts)
        assert not reply.success and message in reply.message and not len(reply.embeddings)


def test_locked_words_stay_until_the_parameter_allows_a_change(vocabulary):
    with running(vocabulary, lock_vocabulary=True) as robot:
        replies = [
            set_vocabulary(robot, Request.ADD, "cyan"),
            robot.call(Trigger, "ovs/reset_vocabulary", Trigger.Request()),
            robot.call(LoadVocabulary, "ovs/load_vocabulary", LoadVocabulary.Request(name="home")),
            robot.call(Teach, "ovs/teach", Teach.Request(name="red", box=[0, 0, 9, 9])),
        ]
        assert not any(reply.success for reply in replies)
        assert {reply.message for reply in replies} == {LOCKED}
        assert robot.call(GetVocabulary, "ovs/get_vocabulary", GetVocabulary.Request()).version == 1
        robot.node.set_parameters([Parameter("lock_vocabulary", value=False)])
        assert set_vocabulary(robot, Request.ADD, "cyan").success


def test_many_new_words_keep_the_mask_at_8_bits_and_its_names_known(vocabulary, monkeypatch):
    """More names than 8 bits hold, one after another; the grace time is over at once."""
    monkeypatch.setattr("ovs_ros.ros.unused_ids.GRACE_S", 0.0)
    with running(vocabulary) as robot:
        for ms in range(150):
            names = [f"word {ms}", f"thing {ms}", "red"]
            assert set_vocabulary(robot, Request.REPLACE, *names).success
            robot.segment(ms, [["red", "black"]])
        robot.of_stamp("semantic/categories", 149)
        assert {message.encoding for message in robot.got["semantic/image_raw"]} == {"mono8"}
        announced, frames = {}, {stamp_ms(frame): frame for frame in robot.got["semantic/categories"]}
        for topic, message in robot.order:
            if topic == "semantic/label_info":
                announced = {entry.class_id: entry.class_name for entry in message.class_map}
                assert len(announced) == 3
            elif topic == "semantic/image_raw":
                frame = frames[stamp_ms(message)]
                assert dict(zip(frame.ids, frame.names, strict=True)).items() <= announced.items()
                assert set(np.unique(pixels(message)).tolist()) <= {*announced, 255}


class SlowText(ColorTextEncoder):
    """Embeds 'molasses' only when it is let go."""

    def __init__(self):
        super().__init__()
        self.started, self.go_on = threading.Event(), threading.Event()

    def encode(self, texts):
        if any("molasses" in text for text in texts):
            self.started.set()
            assert self.go_on.wait(DEADLINE_S)
        return super().encode(texts)


def test_frames_and_other_services_go_on_while_words_are_embedded(vocabulary):
    text = SlowText()
    with running(vocabulary, lambda load: Segmenter(Model(ColorImageEncoder(), text))) as robot:
        pending = robot.ask(
            SetVocabulary, "ovs/set_vocabulary", Request(mode=Request.ADD, names=["molasses"])
        )
        robot.until(text.started.is_set, "the text encoder")
        for ms in range(10):
            robot.segment(ms)
        assert robot.call(GetVocabulary, "ovs/get_vocabulary", GetVocabulary.Request()).version == 1
        assert not pending.done()
        text.go_on.set()
        assert robot.until(lambda: pending.done() and pending.result(), "the reply").version == 2
        robot.segment(10)
        assert robot.of_stamp("semantic/categories", 10).version == 2


def test_an_encoder_that_fails_is_an_answer_and_changes_nothing(vocabulary):
    segmenter = color_segmenter()
    with running(vocabulary, lambda load: segmenter) as robot:
        segmenter.model.text_encoder.encode = lambda texts: 1 / 0
        reply = set_vocabulary(robot, Request.ADD, "never seen before")
        assert not reply.success
        assert "ZeroDivisionError" in reply.message
        robot.segment(1)
        assert robot.of_stamp("semantic/categories", 1).version == 1


def test_before_configure_requests_are_refused_with_a_reason(vocabulary):
    with running(vocabulary, autostart=False) as robot:
        reply = set_vocabulary(robot, Request.ADD, "cyan")
        assert not reply.success and "configure" in reply.message
        assert not robot.call(Trigger, "ovs/reset_vocabulary", Trigger.Request()).success
        assert robot.call(GetVocabulary, "ovs/get_vocabulary", GetVocabulary.Request()).version == 0


def test_a_cleanup_during_a_change_cancels_it_and_the_node_lives_on(vocabulary):
    text = SlowText()
    with running(vocabulary, lambda load: Segmenter(Model(ColorImageEncoder(), text))) as robot:
        pending = robot.ask(SetVocabulary, "ovs/set_vocabulary", add("molasses"))
        robot.until(text.started.is_set, "the text encoder")
        threading.Timer(0.2, text.go_on.set).start()
        for name in ("DEACTIVATE", "CLEANUP", "CONFIGURE", "ACTIVATE"):
            transition = Transition(id=getattr(Transition, f"TRANSITION_{name}"))
            request = ChangeState.Request(transition=transition)
            assert robot.call(ChangeState, "ovs/change_state", request).success
        robot.connected()
        robot.segment(1)
        robot.until(pending.done, "the reply")
        assert not pending.result().success
        reply = set_vocabulary(robot, Request.ADD, "cyan")
        assert (reply.success, reply.ids.tolist()[-1]) == (True, 3)


def test_each_reply_has_the_version_that_its_call_made(robot):
    client = robot.helper.create_client(SetVocabulary, "ovs/set_vocabulary")
    robot.until(client.service_is_ready, "the service")
    names = ["yellow", "cyan", "magenta", "orange", "purple"]
    pending = [client.call_async(add(name)) for name in names]
    robot.until(lambda: all(one.done() for one in pending), "the replies")
    replies = [one.result() for one in pending]
    assert [reply.version for reply in replies] == [2, 3, 4, 5, 6]
    assert [list(reply.names)[3:] for reply in replies] == [names[:count] for count in range(1, 6)]


@pytest.mark.fault("requests by the hundred", "each is answered: done, or busy")
def test_of_hundreds_of_calls_at_once_each_is_answered(robot):
    """The client's own queues are as long as its calls are many; by default DDS drops all but ten."""
    calls = 500
    qos = QoSProfile(depth=calls)
    client = robot.helper.create_client(SetVocabulary, "ovs/set_vocabulary", qos_profile=qos)
    robot.until(client.service_is_ready, "the service")
    pending = [client.call_async(add(f"thing {number}")) for number in range(calls)]
    robot.until(lambda: all(one.done() for one in pending), "the replies")
    made = [one.result() for one in pending if one.result().success]
    refused = {one.result().message for one in pending if not one.result().success}
    assert 0 < len(made) < calls and refused == {BUSY}
    assert [reply.version for reply in made] == list(range(2, len(made) + 2))
    assert sum("busy" in text for text in robot.warnings) == 1  # The log is throttled.


@pytest.mark.fault("a request that takes long", "others are told 'busy', and a reset goes first")
def test_a_full_queue_answers_busy_and_a_reset_goes_first(vocabulary):
    text = SlowText()
    with running(vocabulary, lambda load: Segmenter(Model(ColorImageEncoder(), text))) as robot:
        many = ["molasses", *(f"thing {number}" for number in range(WORDS_A_BATCH))]
        at_work = robot.ask(SetVocabulary, "ovs/set_vocabulary", add(*many))
        robot.until(text.started.is_set, "the text encoder")
        client = robot.helper.create_client(SetVocabulary, "ovs/set_vocabulary")
        robot.until(client.service_is_ready, "the service")
        waiting = [client.call_async(add(f"other {number}")) for number in range(MOST_WAITING)]
        busy = client.call_async(add("one too many"))
        robot.until(busy.done, "the reply")
        assert (busy.result().success, busy.result().message, busy.result().version) == (False, BUSY, 0)
        assert not any(one.done() for one in (at_work, *waiting))

        reset = robot.ask(Trigger, "ovs/reset_vocabulary", Trigger.Request())
        robot.until(lambda: all(one.done() for one in waiting), "the replies")
        text.go_on.set()
        robot.until(lambda: reset.done() and at_work.done(), "the replies")
        assert {one.result().message for one in (at_work, *waiting)} == {RESET}
        assert not any(word.endswith(many[-1]) for word in text.encoded)  # The second batch.
        assert reset.result().success and "version 2 with 3" in reset.result().message


@pytest.mark.fault("a request that takes long", "others are told 'busy', and a reset goes first")
def test_nobody_waits_longer_than_the_deadline(vocabulary, monkeypatch):
    text = SlowText()
    with running(vocabulary, lambda load: Segmenter(Model(ColorImageEncoder(), text))) as robot:
        monkeypatch.setattr(changes, "DEADLINE_S", 0.5)
        monkeypatch.setattr(changes, "GRACE_S", 0.1)
        robot.listen("/diagnostics")
        at_work = robot.ask(SetVocabulary, "ovs/set_vocabulary", add("molasses"))
        waiting = robot.ask(SetVocabulary, "ovs/set_vocabulary", add("cyan"))
        robot.until(lambda: at_work.done() and waiting.done(), "the replies")
        assert "no answer within" in at_work.result().message
        assert set_vocabulary(robot, Request.ADD, "yellow").message == STUCK
        text_told = "a change of the words hangs, in"
        robot.until(
            lambda: any(text_told in m.status[0].message for m in robot.got["/diagnostics"]), "diagnostics"
        )
        robot.segment(1)
        monkeypatch.undo()
        text.go_on.set()
        robot.until(lambda: set_vocabulary(robot, Request.ADD, "yellow").success, "the next change")
        assert (
            "molasses" not in robot.call(GetVocabulary, "ovs/get_vocabulary", GetVocabulary.Request()).names
        )


@pytest.mark.fault("huge and hostile words", "refused; at most 200 printable characters of them come back")
def test_a_huge_name_costs_no_huge_reply_and_no_huge_line(vocabulary):
    with running(vocabulary) as robot:
        for names in (["x" * 10_000_000], ["y" * 200 + "\u202e"]):
            request = SetVocabulary.Request(mode=SetVocabulary.Request.ADD, names=names)
            reply = robot.call(SetVocabulary, "ovs/set_vocabulary", request)
            assert not reply.success
            assert 50 < len(reply.message) < 600
            assert "\u202e" not in reply.message
        assert robot.warnings and max(map(len, robot.warnings)) < 700
        robot.segment(1)
