"""The services that show, change and teach the vocabulary while the node runs."""

import math
import traceback
from collections.abc import Callable
from concurrent.futures import Future as ThreadFuture
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.task import Future
from std_srvs.srv import Trigger

from ovs_ros.ros.recent import RecentFrames
from ovs_ros.ros.words import NOT_CONFIGURED, PROMPT_SEPARATOR, Words, pointed, remarks
from ovs_ros.ros.worker import NOT_ACTIVE, Worker
from ovs_ros.srv import GetVocabulary, SetVocabulary, Teach
from ovs_ros.vocabulary.vocabulary import VocabularyError
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings

Result = TypeVar("Result")


class VocabularyServices:
    """`~/set_vocabulary`, `~/get_vocabulary`, `~/reset_vocabulary` and `~/teach`, while the node lives.

    Words are embedded on another thread, so that the executor goes on with images; images of examples are
    encoded on the worker's. The services exist also
    while there are no words: rclpy's executor fails if it answers on a service that was destroyed.

    Args:
        node: whose services they are.
        words: called for the words; None while the node is not configured.
        changed: called after each change.
        recent: the frames that can be pointed into.
        worker: called for what encodes images; None while the node is not active.
    """

    def __init__(
        self,
        node: Node,
        words: Callable[[], Words | None],
        changed: Callable[[], None],
        recent: RecentFrames,
        worker: Callable[[], Worker | None],
    ) -> None:
        self._node = node
        self._recent = recent
        self._words = words
        self._changed = changed
        self._worker = worker
        self._thread = ThreadPoolExecutor(1, "vocabulary")
        # A service that waits blocks its group, and the subscriptions are in the default group.
        group = ReentrantCallbackGroup()
        for kind, name, callback in (
            (SetVocabulary, "set_vocabulary", self._set),
            (GetVocabulary, "get_vocabulary", self._get),
            (Trigger, "reset_vocabulary", self._reset),
            (Teach, "teach", self._teach),
        ):
            node.create_service(kind, f"~/{name}", callback, callback_group=group)

    def close(self) -> None:
        """Wait for the change at work, and cancel those that wait."""
        self._thread.shutdown(cancel_futures=True)

    async def _set(
        self, request: SetVocabulary.Request, response: SetVocabulary.Response
    ) -> SetVocabulary.Response:
        def change(words: Words) -> WordEmbeddings:
            return words.change(request.mode, request.names, request.prompts, request.thresholds)

        response.success, response.message = await self._off_thread(lambda: self._answer(change))
        self._fill(response)
        return response

    async def _teach(self, request: Teach.Request, response: Teach.Response) -> Teach.Response:
        def change(words: Words) -> WordEmbeddings:
            worker = self._worker()
            if worker is None:
                raise VocabularyError(NOT_ACTIVE)
            stamp = request.stamp.sec * 1_000_000_000 + request.stamp.nanosec
            try:
                image = self._recent.find(stamp)
            except LookupError as error:
                raise VocabularyError(str(error)) from error
            example = pointed(request, image)
            seen = words.see(example, worker.between_frames)
            return words.teach(request.name, seen, examples_only=request.examples_only)

        response.success, response.message = await self._off_thread(lambda: self._answer(change))
        self._fill(response)
        return response

    async def _reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = await self._off_thread(lambda: self._answer(Words.reset))
        return response

    def _get(self, _: GetVocabulary.Request, response: GetVocabulary.Response) -> GetVocabulary.Response:
        words = self._fill(response)
        if words is not None:
            vocabulary = words.vocabulary
            response.prompts = [PROMPT_SEPARATOR.join(c.prompts) for c in vocabulary.categories]
            response.thresholds = [
                math.nan if c.threshold is None else c.threshold for c in vocabulary.categories
            ]
            response.negatives = list(words.negatives)
            response.examples = [len(c.examples) for c in vocabulary.categories]
            response.unknown_id = vocabulary.unknown_id
        return response

    def _fill(
        self, response: SetVocabulary.Response | GetVocabulary.Response | Teach.Response
    ) -> WordEmbeddings | None:
        """Write the present words into a response, and return them."""
        words = self._words()
        if words is None:
            return None
        vocabulary = words.current.vocabulary
        response.version = vocabulary.version
        response.ids = vocabulary.ids.tolist()
        response.names = list(vocabulary.names)
        return words.current

    def _answer(self, change: Callable[[Words], WordEmbeddings]) -> tuple[bool, str]:
        """Make a change. Returns whether it was made, and the message."""
        logger = self._node.get_logger()
        words = self._words()
        if words is None:
            return False, NOT_CONFIGURED
        try:
            embedded = change(words)
        except VocabularyError as error:
            logger.warning(f"The vocabulary stays as it is: {error}")
            return False, str(error)
        except Exception as error:  # The caller waits for an answer.
            logger.error(f"The vocabulary stays as it is:\n{traceback.format_exc()}")
            return False, f"{type(error).__name__}: {error}; the node's log has more"
        self._changed()
        message = remarks(embedded, words.model)
        logger.info(f"The vocabulary is now {message}")
        return True, message

    def _off_thread(self, work: Callable[[], Result]) -> Future:
        """Run `work` on the vocabulary's thread: a future to await in a callback."""
        executor = self._node.executor
        done: Future = Future(executor=executor)

        def hand_over(finished: ThreadFuture[Result]) -> None:
            done.set_result(finished.result())
            # The executor looks at waiting callbacks again only when something happens.
            executor.create_task(_nothing)

        self._thread.submit(work).add_done_callback(hand_over)
        return done


def _nothing() -> None:
    pass
