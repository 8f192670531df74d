"""The action ~/look_for over DDS: feedback while words are in sight, the best view in the end."""

import os

import pytest
from action_msgs.msg import GoalStatus
from builtin_interfaces.msg import Duration
from domain import own_context
from fakes import color_segmenter
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from node_process import NodeProcess
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rig import ALWAYS, FRAME, running, stamp_ms
from std_srvs.srv import Trigger

from ovs_ros.action import LookFor
from ovs_ros.srv import GetVocabulary, SetVocabulary

LONG = Duration(sec=60)


class Search:
    """A goal, what it hears, and its end."""

    def __init__(self, robot, words, duration=LONG):
        self.heard = []
        self._stamp = 1000
        self._robot = robot
        client = ActionClient(robot.helper, LookFor, "ovs/look_for")
        self._client = client
        robot.until(client.server_is_ready, "the action")
        goal = LookFor.Goal(words=words, duration=duration)
        accepted = client.send_goal_async(goal, lambda message: self.heard.append(message.feedback.sighting))
        self.handle = robot.until(lambda: accepted.done() and accepted.result(), "the goal")
        assert self.handle.accepted
        self._result = self.handle.get_result_async()

    def see(self, *picture):
        """Send pictures until it was told of one of them. Returns the sighting."""
        first = self._stamp + 1

        def seen():
            self._stamp += 1
            self._robot.segment(self._stamp, picture)
            return [one for one in self.heard if stamp_ms(one) >= first]

        return self._robot.until(seen, "a sighting")[-1]

    def end(self):
        """Wait for the end: the status and the result."""
        answer = self._robot.until(lambda: self._result.done() and self._result.result(), "the end")
        self._client.destroy()
        return answer.status, answer.result

    def cancel(self):
        cancelled = self.handle.cancel_goal_async()
        self._robot.until(cancelled.done, "the answer")
        return self.end()


def names(robot):
    return list(robot.call(GetVocabulary, "ovs/get_vocabulary", GetVocabulary.Request()).names)


def come(robot, *expected):
    """Wait for the words: they come after the goal was accepted."""
    robot.until(lambda: names(robot) == list(expected), f"the words {expected}")


@pytest.fixture
def robot(vocabulary):
    with running(vocabulary) as robot:
        yield robot


def test_sightings_come_while_a_word_is_in_sight_and_the_best_in_the_end(robot):
    search = Search(robot, ["Green", "cyan"])
    come(robot, "red", "green", "blue", "cyan")
    small = search.see(["red", "green", "red", "red"])
    assert (small.name, list(small.box), small.header.frame_id) == (
        "green",
        [32, 0, 64, 32],
        FRAME,
    )
    assert small.share == pytest.approx(0.25) and 0.5 < small.confidence <= 1 and small.camera == ""
    large = search.see(["cyan", "cyan", "red"])
    assert (large.name, list(large.box)) == ("cyan", [0, 0, 64, 32])
    robot.segment(9000, [["red"]])
    status, result = search.cancel()
    assert status == GoalStatus.STATUS_CANCELED
    assert result.success and result.best.share == pytest.approx(2 / 3)
    assert result.best.name == "cyan"
    assert names(robot) == ["red", "green", "blue"]


def test_its_time_ends_it_and_nothing_seen_is_a_failure(robot):
    status, result = Search(robot, ["cyan"], Duration(nanosec=300_000_000)).end()
    assert (status, result.success) == (GoalStatus.STATUS_ABORTED, False)
    assert result.message == "no image came"
    search = Search(robot, ["red"], Duration(sec=1))
    search.see(["red"])
    status, result = search.end()
    assert (status, result.success) == (GoalStatus.STATUS_SUCCEEDED, True)


def test_a_word_stays_while_another_search_wants_it_or_the_user_took_it_over(robot):
    first, second = Search(robot, ["cyan"]), Search(robot, ["cyan", "yellow"])
    come(robot, "red", "green", "blue", "cyan", "yellow")
    first.cancel()
    assert names(robot) == ["red", "green", "blue", "cyan", "yellow"]
    request = SetVocabulary.Request(mode=SetVocabulary.Request.REPLACE, names=["red", "cyan"])
    assert robot.call(SetVocabulary, "ovs/set_vocabulary", request).success
    second.cancel()
    assert names(robot) == ["red", "cyan"]


@pytest.mark.parametrize(
    ("words", "duration", "text"),
    [
        ([], LONG, "1 to 50 words"),
        ([f"w{number}" for number in range(51)], LONG, "got 51"),
        (["cyan"], Duration(), "above 0"),
        ([" "], LONG, "letter"),
    ],
)
def test_an_impossible_goal_is_aborted_with_the_reason(robot, words, duration, text):
    status, result = Search(robot, words, duration).end()
    assert status == GoalStatus.STATUS_ABORTED and text in result.message
    assert "frames" not in result.message
    assert names(robot) == ["red", "green", "blue"]


def test_the_end_of_the_stream_ends_a_search(robot):
    search = Search(robot, ["cyan"])
    transition = Transition(id=Transition.TRANSITION_DEACTIVATE)
    assert robot.call(ChangeState, "ovs/change_state", ChangeState.Request(transition=transition)).success
    status, result = search.end()
    assert status == GoalStatus.STATUS_ABORTED and "active" in result.message
    version = robot.node._words.current.vocabulary.version
    status, result = Search(robot, ["cyan"]).end()
    assert status == GoalStatus.STATUS_ABORTED and "active" in result.message
    assert robot.node._words.current.vocabulary.version == version  # Nothing was added for it.
    assert names(robot) == ["red", "green", "blue"]


def test_locked_words_are_looked_for_but_none_are_added(vocabulary):
    with running(vocabulary, lock_vocabulary=True) as robot:
        status, result = Search(robot, ["cyan"]).end()
        assert status == GoalStatus.STATUS_ABORTED and "lock_vocabulary" in result.message
        search = Search(robot, ["red"])
        search.see(["red"])
        search.cancel()


def test_an_encoder_that_fails_aborts_a_search_with_the_reason(vocabulary):
    segmenter = color_segmenter()
    with running(vocabulary, lambda load: segmenter) as robot:
        segmenter.model.text_encoder.encode = lambda texts: 1 / 0
        status, result = Search(robot, ["never seen before"]).end()
        assert status == GoalStatus.STATUS_ABORTED and "ZeroDivisionError" in result.message


def test_a_signal_during_a_search_ends_the_process_quietly(tmp_path):
    with own_context() as context:
        node = Node("client", context=context)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        client = ActionClient(node, LookFor, "ovs/look_for")
        environment = {**os.environ, "ROS_DOMAIN_ID": str(context.get_domain_id())}
        process = NodeProcess(tmp_path / "log", environment, {"vocabulary": "office"})
        try:
            process.until(lambda: executor.spin_once(timeout_sec=0.05) or client.server_is_ready())
            client.send_goal_async(LookFor.Goal(words=["flamingo"], duration=LONG))
            process.until(
                lambda: (
                    executor.spin_once(timeout_sec=0.05) or "The vocabulary is now version 2" in process.said
                )
            )
            status, _ = process.end()
            assert status == 0
            assert "The vocabulary is now version 3 with" in process.said  # The words were given back.
            words = ("Traceback", "ERROR", "ignored", "never awaited")
            assert not any(word in process.said for word in words), process.said
        finally:
            process.popen.kill()
            process.popen.wait()
            client.destroy()
            executor.shutdown()
            node.destroy_node()


def test_a_search_lets_a_lazy_node_hear_its_camera(robot):
    robot.ignore(*(topic for topic in ALWAYS if topic != "semantic/label_info"))
    robot.until(lambda: robot.helper.count_subscribers("image") == 0, "the node's rest")
    search = Search(robot, ["red"])

    def seen():
        robot.image(1000)
        return search.heard

    robot.until(seen, "a sighting")
    search.cancel()
    robot.until(lambda: robot.helper.count_subscribers("image") == 0, "the node's rest")


def test_a_reset_does_not_disturb_the_end_of_a_search(robot):
    search = Search(robot, ["cyan"])
    come(robot, "red", "green", "blue", "cyan")
    assert robot.call(Trigger, "ovs/reset_vocabulary", Trigger.Request()).success
    search.cancel()
    assert names(robot) == ["red", "green", "blue"]
