"""The services that show, change and teach the vocabulary while the node runs."""

import math
import traceback
from array import array
from collections.abc import Callable
from concurrent.futures import Future as ThreadFuture
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.task import Future
from std_srvs.srv import Trigger

from ovs_ros.ros.changes import BusyError, Changes, Check
from ovs_ros.ros.parameters import Settings
from ovs_ros.ros.recent import RecentFrames
from ovs_ros.ros.session import SESSION
from ovs_ros.ros.throttle import Throttle
from ovs_ros.ros.words import LOCKED, NOT_CONFIGURED, PROMPT_SEPARATOR, Words, pointed, remarks
from ovs_ros.ros.worker import NOT_ACTIVE, Worker
from ovs_ros.runtime.quoting import quoted
from ovs_ros.segmenter import Encoding
from ovs_ros.srv import Embed, GetVocabulary, LoadVocabulary, SetVocabulary, Teach
from ovs_ros.vocabulary.examples import Arrays
from ovs_ros.vocabulary.folder import load_by_name
from ovs_ros.vocabulary.vocabulary import VocabularyError
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings

Result = TypeVar("Result")
Changed = TypeVar(
    "Changed", SetVocabulary.Response, LoadVocabulary.Response, Teach.Response, Trigger.Response
)
Filled = TypeVar(
    "Filled", SetVocabulary.Response, LoadVocabulary.Response, Teach.Response, GetVocabulary.Response
)
REQUESTS = QoSProfile(depth=2000)
"""A service keeps 10 requests by default, and DDS drops more without a word when many come at once."""


class VocabularyServices:
    """The services that have to do with words, while the node lives.

    Words are embedded on another thread, so that the executor goes on with images; images of examples are
    encoded on the worker's. The services exist also while there are no words: rclpy's executor fails if it
    answers on a service that was destroyed.

    Args:
        node: whose services they are.
        words: called for the words; None while the node is not configured.
        changed: called after each change.
        recent: the frames that can be pointed into.
        worker: called for what encodes images; None while the node is not active.
        settings: called for the parameters' values.
        throttle: takes the warnings about requests that are refused.
    """

    def __init__(
        self,
        node: Node,
        words: Callable[[], Words | None],
        changed: Callable[[], None],
        recent: RecentFrames,
        worker: Callable[[], Worker | None],
        settings: Callable[[], Settings],
        throttle: Throttle,
    ) -> None:
        self._node = node
        self._recent = recent
        self._words = words
        self._changed = changed
        self._worker = worker
        self._settings = settings
        self._throttle = throttle
        self._changes = Changes()
        # A service that waits blocks its group, and the subscriptions are in the default group.
        group = ReentrantCallbackGroup()
        for kind, name, callback in (
            (SetVocabulary, "set_vocabulary", self._set),
            (GetVocabulary, "get_vocabulary", self._get),
            (Trigger, "reset_vocabulary", self._reset),
            (LoadVocabulary, "load_vocabulary", self._load),
            (Embed, "embed", self._embed),
            (Teach, "teach", self._teach),
        ):
            node.create_service(kind, f"~/{name}", callback, qos_profile=REQUESTS, callback_group=group)
        node.create_timer(
            1.0, self._changes.expire, callback_group=group, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    @property
    def waiting(self) -> int:
        """How many changes wait."""
        return self._changes.waiting

    @property
    def hangs(self) -> str:
        """Where the change at work hangs; empty if it does not."""
        return self._changes.hangs

    def cancel(self) -> bool:
        """Refuse all changes, as the words are released. Returns whether one is at work."""
        return self._changes.cancel()

    def close(self) -> None:
        """Refuse all changes, now and later."""
        self._changes.close()

    async def _set(
        self, request: SetVocabulary.Request, response: SetVocabulary.Response
    ) -> SetVocabulary.Response:
        def change(words: Words, check: Check) -> WordEmbeddings:
            return words.change(request.mode, request.names, request.prompts, request.thresholds, check)

        return _fill(response, await self._make(response, change))

    async def _teach(self, request: Teach.Request, response: Teach.Response) -> Teach.Response:
        def change(words: Words, check: Check) -> WordEmbeddings:
            names = [name for name in self._settings().node.cameras if name]
            if request.camera and request.camera not in names:
                known = (
                    f"a camera, one of {', '.join(names)}"
                    if names
                    else "no name, for the only camera has none"
                )
                raise VocabularyError(f"expected {known}, got {quoted(request.camera)}")
            stamp = request.stamp.sec * 1_000_000_000 + request.stamp.nanosec
            try:
                frame = self._recent.find(stamp, request.camera)
            except LookupError as error:
                raise VocabularyError(str(error)) from error
            example = pointed(request, frame.image, frame.rotation)
            seen = words.see(example, self._encode)
            return words.teach(request.name, seen, examples_only=request.examples_only, check=check)

        return _fill(response, await self._make(response, change))

    async def _reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        await self._make(response, Words.reset, reset=True)
        return response

    async def _load(
        self, request: LoadVocabulary.Request, response: LoadVocabulary.Response
    ) -> LoadVocabulary.Response:
        def change(words: Words, check: Check) -> WordEmbeddings:
            folder = self._settings().node.vocabulary_folder
            vocabulary = load_by_name(request.name, Path(folder).expanduser() if folder else None)
            return words.load(vocabulary, self._encode, check)

        return _fill(response, await self._make(response, change))

    async def _embed(self, request: Embed.Request, response: Embed.Response) -> Embed.Response:
        def work(check: Check) -> tuple[str, NDArray[np.float32]]:
            words = self._words()
            if words is None:
                raise VocabularyError(NOT_CONFIGURED)
            return words.model.identity, words.vectors(request.texts, check)

        response.success = False
        try:
            response.model, vectors = await self._off_thread(self._changes.submit(work))
        except VocabularyError as error:
            response.message = str(error)
            return response
        except Exception as error:  # The caller waits for an answer.
            response.message = self.report(error, "Texts cannot be embedded")
            return response
        response.success = True
        response.dimensions = vectors.shape[1]
        response.embeddings = array("f", vectors.tobytes())
        return response

    def _encode(self, encoding: Encoding) -> Arrays:
        """Encode an image on the worker's thread."""
        worker = self._worker()
        if worker is None:
            raise VocabularyError(NOT_ACTIVE)
        return worker.between_frames(encoding)

    def _get(self, _: GetVocabulary.Request, response: GetVocabulary.Response) -> GetVocabulary.Response:
        words = self._words()
        if words is None:
            return response
        current = words.current
        vocabulary = current.vocabulary
        response.prompts = [PROMPT_SEPARATOR.join(c.prompts) for c in vocabulary.categories]
        response.thresholds = [
            math.nan if c.threshold is None else c.threshold for c in vocabulary.categories
        ]
        response.negatives = list(current.negatives)
        response.examples = [len(c.examples) for c in vocabulary.categories]
        response.unknown_id = vocabulary.unknown_id
        response.session = SESSION
        return _fill(response, current)

    async def _make(
        self, response: Changed, change: Callable[[Words, Check], WordEmbeddings], *, reset: bool = False
    ) -> WordEmbeddings | None:
        """Make a change, and write into the response how that went.

        Returns:
            The words to tell: those that it made, or the present ones if it made none; None if there are none
            or the node is busy, when thousands of names a reply would keep it busier.
        """
        words = self._words()
        response.success = False
        try:
            if self.locked:
                raise VocabularyError(LOCKED)
            made, response.message = await self.make(change, reset=reset)
            response.success = True
            return made
        except BusyError as error:
            response.message = str(error)
            self._throttle.warn("busy", f"Requests to change words are refused: {error}")
            return None
        except VocabularyError as error:
            response.message = str(error)
            self._throttle.warn("refused", f"The vocabulary stays as it is: {error}")
        except Exception as error:  # The caller waits for an answer.
            response.message = self.report(error, "The vocabulary stays as it is")
        return None if words is None else words.current

    @property
    def locked(self) -> bool:
        """Whether words may not change."""
        return self._settings().node.lock_vocabulary

    async def make(
        self,
        change: Callable[[Words, Check], WordEmbeddings],
        *,
        reset: bool = False,
    ) -> tuple[WordEmbeddings, str]:
        """Make a change after those that wait. To be awaited on the executor's thread.

        Args:
            change: makes it, on the vocabulary's thread.
            reset: cancel the changes that came before.

        Returns:
            The words that hold after it, and what is to be said of them.

        Raises:
            VocabularyError: it is refused, cancelled or late, or it cannot be made.
        """

        def work(check: Check) -> tuple[WordEmbeddings, str]:
            words = self._words()
            if words is None:
                raise VocabularyError(NOT_CONFIGURED)
            before = words.current
            made = change(words, check)
            if made is not before:
                self._changed()
            return made, remarks(made, words.model, before.vocabulary)

        made, message = await self._off_thread(self._changes.submit(work, reset=reset))
        self._node.get_logger().info(f"The vocabulary is now {message}")
        return made, message

    def report(self, error: Exception, what: str) -> str:
        """Log an error of the node's own. Returns what the caller gets to know."""
        self._throttle.warn(what, f"{what}:\n{''.join(traceback.format_exception(error))}")
        return f"{type(error).__name__}: {error}; the node's log has more"

    async def _off_thread(self, work: ThreadFuture[Result]) -> Result:
        """Wait for what another thread does, while the executor goes on."""
        executor = self._node.executor
        done: Future = Future(executor=executor)

        def hand_over(_: ThreadFuture[Result]) -> None:
            done.set_result(None)
            # The executor looks at waiting callbacks again only when something happens.
            executor.create_task(_nothing)

        work.add_done_callback(hand_over)
        await done
        return work.result()


def _fill(response: Filled, words: WordEmbeddings | None) -> Filled:
    """Write words into a response."""
    if words is not None:
        vocabulary = words.vocabulary
        response.version = vocabulary.version
        response.ids = array("H", vocabulary.ids.tobytes())
        response.names = list(vocabulary.names)
    return response


def _nothing() -> None:
    pass
