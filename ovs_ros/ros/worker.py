"""A thread that works on the frames of all cameras.

One such thread segments and publishes, and the image encoder belongs to it. Where labels are propagated, it
segments key frames alone, and a second such thread carries labels along and publishes.
"""

import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from functools import partial
from time import monotonic, perf_counter
from typing import Any, Generic, Protocol, TypeVar

from ovs_ros.ros.frames import FrameQueue, Item
from ovs_ros.ros.pipeline import Asked
from ovs_ros.ros.throttle import Throttle
from ovs_ros.ros.whereabouts import whereabouts
from ovs_ros.segmenter import Segmenter
from ovs_ros.steps.segmentation import Segmentation
from ovs_ros.vocabulary.errors import VocabularyError

Result = TypeVar("Result")
ENCODING_S = 30.0
"""How long somebody waits for an image to be encoded: many times a slow frame on a slow processor."""
STOPPING_S = 3.0
"""How long `stop` waits for the frame at work."""
NOT_ACTIVE = "expected an active node, which encodes images, got one that is not; activate it and ask again"


_Taken = TypeVar("_Taken", contravariant=True)


class Steps(Protocol[_Taken]):
    """What is done with one camera's frames, on the worker's thread."""

    def announce(self) -> None:
        """Called before each frame, of whichever camera, and when the queue is woken."""

    def process(self, frame: _Taken) -> Generator[Asked, Segmentation, None]:
        """Work on a frame; ask for what it shows, if that is wanted."""

    def failed(self, error: Exception) -> None:
        """What one of the others raised."""


class Worker(Generic[Item]):
    """Takes frames out of the queue until it is stopped; in between, one job of others.

    It takes one frame at a time; where the model gains from it, one of each camera whose turn has come and
    whose frame waits already.

    Args:
        queue: closed by `stop`.
        pipelines: one for each camera. What one of them raises is handed to it; the worker goes on.
        segmenter: segments what the pipelines ask for.
        throttle: takes warnings.
        timed: called after frames with the stages of each and the milliseconds of all together.
        name: of the thread.
        patience: seconds without a frame after which the pipelines announce all the same; None: they do not.

    Attributes:
        deaths: how often the thread died and was started again.
        died: when it last did, monotonic seconds; None: never.
    """

    def __init__(
        self,
        queue: FrameQueue[Item],
        pipelines: Sequence[Steps[Item]],
        segmenter: Segmenter,
        throttle: Throttle,
        timed: Callable[[Sequence[Mapping[str, float]], float], object] = lambda stages, ms: None,
        name: str = "segmentation",
        patience: float | None = None,
    ) -> None:
        self._queue = queue
        self._pipelines = pipelines
        self._segmenter = segmenter
        self._throttle = throttle
        self._timed = timed
        self._name = name
        self._patience = patience
        self._jobs: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._busy_since: float | None = None
        self._last_words = ""
        self.deaths = 0
        self.died: float | None = None
        self._thread = self._new_thread()

    def _new_thread(self) -> threading.Thread:
        # A daemon: what hangs in a model must not keep the process alive.
        return threading.Thread(target=self._live, name=self._name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Close the queue: the thread ends after the frame at work."""
        self._queue.close()

    def stop(self, until: float | None = None) -> bool:
        """Close the queue and wait a little for the frame at work. Jobs that wait are refused.

        Args:
            until: how long to wait, in monotonic seconds; by default STOPPING_S from now on.

        Returns:
            Whether the thread has ended. If not, it publishes nothing more, and ends after the frame.
        """
        self._queue.close()
        self._thread.join(STOPPING_S if until is None else max(until - monotonic(), 0.0))
        self._refuse_jobs()
        return not self._thread.is_alive()

    @property
    def ended(self) -> bool:
        """Whether its thread is no more, and with it nothing that uses the model."""
        return not self._thread.is_alive()

    def busy(self) -> tuple[float, str]:
        """For how many seconds the frame or job at work lasts, and where it is; 0 where there is none."""
        since = self._busy_since
        return (0.0, "") if since is None else (monotonic() - since, whereabouts(self._thread))

    def revive(self) -> str:
        """Start the thread again if it died. Returns what it died of, and an empty text if it lives."""
        if self._thread.is_alive() or self._queue.closed:
            return ""
        self.deaths += 1
        self.died = monotonic()
        self._busy_since = None
        self._thread = self._new_thread()
        self._thread.start()
        return self._last_words

    def between_frames(self, job: Callable[[], Result], timeout: float = ENCODING_S) -> Result:
        """Let the worker's thread do a job after the frame at work, and wait for what it returns.

        Any other thread may call it. Of several jobs each waits for a frame, if frames come.

        Raises:
            VocabularyError: the worker has stopped, or the job was not done within `timeout` seconds.
            Exception: what the job raises.
        """
        future: Future[Result] = Future()
        self._jobs.append((future, job))
        self._queue.wake()
        if self._queue.closed:
            self._refuse_jobs()
        try:
            return future.result(timeout)
        except FutureTimeoutError:
            if future.done():  # It is the job's own.
                raise
            future.cancel()
            raise VocabularyError(
                f"expected the model to encode an image within {timeout:g} s, got no answer; look at "
                "/diagnostics for what the node does, and ask again"
            ) from None

    def _live(self) -> None:
        try:
            self._run()
        except BaseException:  # What no pipeline may raise, such as SystemExit.
            self._last_words = traceback.format_exc()

    def _run(self) -> None:
        while not self._queue.closed:
            self._busy_since = None
            taken = self._queue.take(self._segmenter.model.most_at_once, self._patience)
            self._busy_since = monotonic()
            if self._queue.closed:
                return
            for pipeline in self._pipelines:
                self._guard(pipeline, pipeline.announce)
            self._process(taken)
            if not self._queue.closed:
                self._do_job()
            if self._jobs:
                self._queue.wake()

    def _process(self, taken: Sequence[tuple[int, Item]]) -> None:
        """Segment and publish frames of different cameras."""
        started, begun = perf_counter(), []
        for camera, frame in taken:
            steps = self._pipelines[camera].process(frame)
            asked: Asked | None = self._guard(self._pipelines[camera], partial(next, steps, None))
            if asked is not None:
                begun.append((self._pipelines[camera], steps, asked))
        results = self._together([asked for *_, asked in begun])
        stages: list[Mapping[str, float]] = []
        for (pipeline, steps, asked), result in zip(begun, results, strict=True):
            done = self._guard(pipeline, partial(self._finish, steps, asked, result))
            stages += [] if done is None else [done]
        if stages:
            self._timed(stages, (perf_counter() - started) * 1e3)

    def _together(self, asked: Sequence[Asked]) -> Sequence[Segmentation | None]:
        """The results of frames as one batch; None for those that have to be segmented alone."""
        alone = [None] * len(asked)
        if len(asked) < 2:
            return alone
        _, words, options = asked[0]
        if any(one.words is not words or one.options != options for one in asked):
            return alone  # They changed between two of the frames.
        self._busy_since = monotonic()
        try:
            return self._segmenter.segment_batch([one.image for one in asked], words, options)
        except Exception as error:  # Alone, the frame that caused it fails for its own camera.
            text = f"{len(asked)} frames fail together and are segmented one by one: {error}"
            self._throttle.warn("batch", text)
            return alone

    def _finish(
        self, steps: Generator[Asked, Segmentation, None], asked: Asked, result: Segmentation | None
    ) -> Mapping[str, float]:
        if result is None:
            result = self._segmenter.segment(*asked)
        with suppress(StopIteration):
            steps.send(result)
        return result.stages_ms

    def _guard(self, pipeline: Steps[Item], step: Callable[[], Result]) -> Result | None:
        self._busy_since = monotonic()
        try:
            return step()
        except Exception as error:  # Go on with the next frame.
            # One that was given up meanwhile finds its publishers destroyed.
            if not self._queue.closed:
                pipeline.failed(error)
            return None

    def _do_job(self) -> None:
        try:
            future, job = self._jobs.popleft()
        except IndexError:
            return
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(job())
        except Exception as error:  # It is whose job it is who has to know.
            future.set_exception(error)

    def _refuse_jobs(self) -> None:
        while True:
            try:
                future, _ = self._jobs.popleft()
            except IndexError:  # Two threads may refuse at once.
                return
            if future.set_running_or_notify_cancel():
                future.set_exception(VocabularyError(NOT_ACTIVE))


def stop_together(workers: Sequence[Worker[Any]]) -> list[Worker[Any]]:
    """Stop workers that end within the time of one.

    Returns:
        Those whose thread has not ended.
    """
    for worker in workers:
        worker.close()
    until = monotonic() + STOPPING_S
    return [worker for worker in workers if not worker.stop(until)]
