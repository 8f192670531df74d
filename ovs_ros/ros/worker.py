"""The one thread that segments and publishes."""

import threading
from collections.abc import Callable

from ovs_ros.ros.inputs import Frame, Inputs


class Worker:
    """Takes frames out of the inputs, one by one, until it is stopped.

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
        self._thread = threading.Thread(target=self._run, name="segmentation", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Close the inputs and wait until the frame at work is done."""
        self._inputs.close()
        self._thread.join()

    def _run(self) -> None:
        while not self._inputs.closed:
            frame = self._inputs.take()
            if self._inputs.closed:
                return
            try:
                self._process(frame)
            except Exception as error:  # Go on with the next frame.
                self._failed(error)
