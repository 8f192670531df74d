"""The one thread that segments and publishes."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from ovs_ros.ros.mailbox import Mailbox

Frame = TypeVar("Frame")


class Worker(Generic[Frame]):
    """Takes frames out of a mailbox, one after the other, until it is stopped.

    Args:
        mailbox: closed by `stop`.
        process: called with each frame, and with None when the mailbox was woken without one.
        failed: called with what `process` raised; the worker goes on with the next frame.
    """

    def __init__(
        self,
        mailbox: Mailbox[Frame, object],
        process: Callable[[Frame | None], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._mailbox = mailbox
        self._process = process
        self._failed = failed
        self._thread = threading.Thread(target=self._run, name="segmentation", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Close the mailbox and wait until the frame at work is done."""
        self._mailbox.close()
        self._thread.join()

    def _run(self) -> None:
        while not self._mailbox.closed:
            frame = self._mailbox.take()
            if self._mailbox.closed:
                return
            try:
                self._process(frame)
            except Exception as error:  # Whatever one frame does, the next one is due.
                self._failed(error)
