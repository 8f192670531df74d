"""End the process on SIGINT or SIGTERM at any moment, promptly and without a traceback.

Python's own KeyboardInterrupt can be raised anywhere, is swallowed in destructors and C callbacks, and leaves
a traceback while modules load. Here a thread waits for the signals instead.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from time import sleep
from typing import NoReturn

GRACE_S = 4.0
"""How long the process may take to end by itself; ros2 launch sends SIGTERM after 5 s."""

_shut_down: Callable[[], object] | None = None


def catch() -> None:
    """From now on, end the process with status 128 + signal when one comes. Call it in the main thread."""
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    threading.Thread(target=_wait, args=(readable,), name="interrupts", daemon=True).start()


def then(shut_down: Callable[[], object]) -> None:
    """From now on, call `shut_down` at the first signal instead, on another thread; ignore further ones.

    A process that is still there `GRACE_S` seconds later ends with status 0, whatever it is doing.
    """
    global _shut_down
    _shut_down = shut_down


def leave(status: int) -> NoReturn:
    """End the process at once, whatever its other threads do; what was printed is written out."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _wait(readable: int) -> None:
    number = os.read(readable, 1)[0]
    if _shut_down is None:
        os._exit(128 + number)
    _shut_down()
    sleep(GRACE_S)
    os._exit(0)
