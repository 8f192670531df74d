"""The action `~/look_for`: tells for a while where words are."""

import threading
from collections.abc import Callable
from time import monotonic

import cv2
import numpy as np
from numpy.typing import NDArray
from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.executors import Executor
from rclpy.node import Node
from rclpy.task import Future
from std_msgs.msg import Header

from ovs_ros.action import LookFor
from ovs_ros.msg import Sighting
from ovs_ros.ros.measurements import Measurements
from ovs_ros.ros.services import VocabularyServices
from ovs_ros.ros.worker import NOT_ACTIVE
from ovs_ros.steps.segmentation import Segmentation
from ovs_ros.vocabulary.vocabulary import VocabularyError, name_key

MOST_SEARCHES = 8
"""How many goals may be at work at once."""
MOST_WORDS = 50
FINISHING_S = 1.0
"""How long searches may take to tell their results when the process ends."""
LEAST_SHARE = 0.001
"""The share of an image's pixels from which on a word counts as seen."""


class _Search:
    """A goal at work.

    Attributes:
        frames: how many were looked at.
        seen: how many of them showed one of the words.
        best: the sighting with the highest product of confidence and share.
        ended: done when it ends; its result is why, if not by the end of its time.
    """

    def __init__(self, handle: ServerGoalHandle, ended: Future) -> None:
        self.handle = handle
        self.names = {name_key(word) for word in handle.request.words}
        self.ended = ended
        self.frames = self.seen = 0
        self.best: Sighting | None = None

    def look(self, camera: str, header: Header, result: Segmentation) -> None:
        """Take a frame, and publish what it shows."""
        self.frames += 1
        sightings = [
            sighting(camera, header, result, index)
            for index, name in enumerate(result.selected_names)
            if name_key(name) in self.names and result.shares[index] >= LEAST_SHARE
        ]
        self.seen += bool(sightings)
        for one in sightings:
            if self.best is None or one.confidence * one.share > self.best.confidence * self.best.share:
                self.best = one
            self.handle.publish_feedback(LookFor.Feedback(sighting=one))


class LookForServer:
    """Serves the action while the node lives.

    Args:
        node: whose action it is.
        services: change the words.
        active: called for whether frames are segmented.
    """

    def __init__(self, node: Node, services: VocabularyServices, active: Callable[[], bool]) -> None:
        self._node = node
        self._services = services
        self._active = active
        self._lock = threading.Lock()
        self._searches: list[_Search] = []
        self._at_work = 0
        self._server = ActionServer(
            node,
            LookFor,
            "~/look_for",
            self._execute,
            callback_group=ReentrantCallbackGroup(),
            cancel_callback=self._cancel,
        )

    def destroy(self) -> None:
        """Destroy the action."""
        self._server.destroy()

    @property
    def looks(self) -> bool:
        """Whether anything is looked for now."""
        return bool(self._searches)

    def end(self) -> None:
        """End all searches, as no frame comes any more."""
        with self._lock:
            searches = list(self._searches)
        for search in searches:
            self._wake(search.ended, NOT_ACTIVE)

    def look(self, camera: str, header: Header, result: Segmentation) -> None:
        """Take a frame of a camera. For the worker's thread."""
        with self._lock:
            searches = list(self._searches)
        for search in searches:
            search.look(camera, header, result)

    def _cancel(self, handle: ServerGoalHandle) -> CancelResponse:
        with self._lock:
            searches = list(self._searches)
        for search in searches:
            if search.handle.goal_id == handle.goal_id:
                self._wake(search.ended, "cancelled")
        return CancelResponse.ACCEPT

    def _wake(self, future: Future, reason: str) -> None:
        if not future.done():
            future.set_result(reason)
        # The executor looks at waiting callbacks again only when something happens.
        if (executor := self._node.executor) is not None:
            executor.create_task(lambda: None)

    def finish(self, executor: Executor) -> None:
        """End all searches, and let the executor, which nobody spins, tell their results.

        A goal that the interpreter's end interrupts would leave a traceback, and its words in the state file.
        """
        self.end()
        end = monotonic() + FINISHING_S
        while self._at_work and monotonic() < end:
            executor.spin_once(timeout_sec=0.05)

    async def _execute(self, handle: ServerGoalHandle) -> LookFor.Result:
        self._at_work += 1
        try:
            return await self._search(handle)
        finally:
            self._at_work -= 1

    async def _search(self, handle: ServerGoalHandle) -> LookFor.Result:
        search = _Search(handle, Future(executor=self._node.executor))
        words = list(handle.request.words)
        borrowed = False
        try:
            seconds = self._checked(handle.request)
            if not self._active():
                raise VocabularyError(NOT_ACTIVE)
            locked = self._services.locked
            await self._services.make(lambda known, check: known.borrow(words, check, locked=locked))
            borrowed = True
            self._add(search)
            message = await self._wait(search, seconds)
        except VocabularyError as error:
            message = str(error)
        except Exception as error:  # The caller waits for an answer.
            message = self._services.report(error, "A search is aborted")
        # Not in a 'finally': when the process ends, nobody is left to wait for.
        with self._lock:
            if search in self._searches:
                self._searches.remove(search)
        if borrowed:
            await self._give_back(words)
        return self._result(search, message)

    def _add(self, search: _Search) -> None:
        with self._lock:
            if not self._active():
                raise VocabularyError(NOT_ACTIVE)
            if len(self._searches) >= MOST_SEARCHES:
                raise VocabularyError(f"busy: {MOST_SEARCHES} searches are at work; ask again later")
            self._searches.append(search)

    @staticmethod
    def _checked(goal: LookFor.Goal) -> float:
        """The seconds that a goal wants to look for."""
        if not 0 < len(goal.words) <= MOST_WORDS:
            raise VocabularyError(f"expected 1 to {MOST_WORDS} words to look for, got {len(goal.words)}")
        seconds = goal.duration.sec + goal.duration.nanosec / 1e9
        if seconds <= 0:
            raise VocabularyError(f"expected a duration above 0, got {seconds:g} s; say how long to look")
        return seconds

    async def _wait(self, search: _Search, seconds: float) -> str:
        timer = self._node.create_timer(
            seconds, lambda: self._wake(search.ended, ""), clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        try:
            if search.handle.is_cancel_requested:  # While the words were embedded.
                return "cancelled"
            return str(await search.ended)
        finally:
            self._node.destroy_timer(timer)

    async def _give_back(self, words: list[str]) -> None:
        try:
            await self._services.make(lambda known, check: known.give_back(words))
        except VocabularyError as error:
            self._node.get_logger().warning(f"The words that were looked for stay: {error}")

    @staticmethod
    def _result(search: _Search, message: str) -> LookFor.Result:
        handle = search.handle
        count = f"seen in {search.seen} of {search.frames} frames" if search.frames else "no image came"
        if message and search.frames:
            message = f"{message}; {count}"
        result = LookFor.Result(success=search.best is not None, message=message or count)
        if search.best is not None:
            result.best = search.best
        if handle.is_cancel_requested:
            handle.canceled()
        elif result.success:
            handle.succeed()
        else:
            handle.abort()
        return result


class LookForOutput:
    """Hands the frames of one camera to the action, as an optional output."""

    def __init__(self, server: LookForServer, camera: str) -> None:
        self._server = server
        self._camera = camera

    def destroy(self) -> None:
        """Nothing is its own."""

    def needs(self) -> set[str]:
        """The inputs that it needs now; none while nothing is looked for."""
        return {"image"} if self._server.looks else set()

    def announce(self) -> None:
        """Nothing holds for all frames."""

    def publish(self, header: Header, result: Segmentation, measurements: Measurements) -> None:
        """Look for words in a frame."""
        self._server.look(self._camera, header, result)


def sighting(camera: str, header: Header, result: Segmentation, index: int) -> Sighting:
    """Where the selected category `index` is in a frame that shows it."""
    mask = (result.labels == result.selected_ids[index]).astype(np.uint8)  # (H, W)
    return Sighting(
        header=header,
        camera=camera,
        name=result.selected_names[index],
        box=_largest_piece(mask),
        share=float(result.shares[index]),
        confidence=float(cv2.mean(result.confidence, mask)[0]) / 255,
    )


def _largest_piece(mask: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """The box (x0, y0, x1, y1) around the largest connected piece of a mask (H, W) that is not empty."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask)
    x, y, width, height, _ = stats[1:][stats[1:, cv2.CC_STAT_AREA].argmax()]
    return np.array([x, y, x + width, y + height], np.uint32)
