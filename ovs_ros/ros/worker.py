"""The one thread that segments and publishes, and that the image encoder belongs to."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, TypeVar

from ovs_ros.ros.inputs import Frame, Inputs
from ovs_ros.vocabulary.errors import VocabularyError

Result = TypeVar("Result")
ENCODING_S = 30.0
"""How long somebody waits for an image to be encoded: many times a slow frame on a slow processor."""
NOT_ACTIVE = "expected an active node, which encodes images, got one that is not; activate it and ask again"


class Worker:
    """Takes frames out of the inputs, one by one, until it is stopped; between two frames, one job of others.

    Args:
        inputs: closed by `stop`.
        process: called with each frame, and with None when the inputs were woken without one.
        failed: called with what `process` raised; the worker goes on with the next frame.
    """

    def __init__(
        self,
        inputs: Inputs,
        process: Callable[[Frame | None], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._inputs = inputs
        self._process = process
        self._failed = failed
        self._jobs: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._thread = threading.Thread(target=self._run, name="segmentation", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Close the inputs and wait until the frame at work is done. Jobs that wait are refused."""
        self._inputs.close()
        self._thread.join()
        self._refuse_jobs()

    def between_frames(self, job: Callable[[], Result], timeout: float = ENCODING_S) -> Result:
        """Let the worker's thread do a job after the frame at work, and wait for what it returns.

        Any other thread may call it. Of several jobs each waits for a frame, if frames come.

        Raises:
            VocabularyError: the worker has stopped, or the job was not done within `timeout` seconds.
            Exception: what the job raises.
        """
        future: Future[Result] = Future()
        self._jobs.append((future, job))
        self._inputs.wake()
        if self._inputs.closed:
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

    def _run(self) -> None:
        while not self._inputs.closed:
            frame = self._inputs.take()
            if self._inputs.closed:
                return
            try:
                self._process(frame)
            except Exception as error:  # Go on with the next frame.
                self._failed(error)
            if not self._inputs.closed:
                self._do_job()
            if self._jobs:
                self._inputs.wake()

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
