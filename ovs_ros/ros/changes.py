"""The one thread that changes words: requests wait in a short queue, and a reset goes first."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from time import monotonic
from typing import Any, Generic, TypeVar

from ovs_ros.ros.whereabouts import whereabouts
from ovs_ros.runtime.threads import let_others_go_first
from ovs_ros.vocabulary.errors import VocabularyError

Result = TypeVar("Result")
Check = Callable[[], None]
"""Raises VocabularyError when the change at work must give up."""

MOST_WAITING = 8
"""How many requests may wait beside the one at work."""
DEADLINE_S = 120.0
"""How long a request may take, waiting included."""
GRACE_S = 5.0
"""How long after its deadline the request at work may still answer by itself: one batch of words."""
BUSY = f"busy: {MOST_WAITING} requests wait already; nothing has changed, ask again in a second"
RESET = "cancelled by ~/reset_vocabulary, which came after it; nothing has changed, ask again"
LATE = (
    f"not done within {DEADLINE_S:g} s; nothing has changed. What was embedded is cached: ask again, or with "
    "fewer words"
)
HANGS = (
    f"no answer within {DEADLINE_S + GRACE_S:g} s: the model hangs, or is very slow; ask ~/get_vocabulary "
    "whether the change was made, and look at /diagnostics"
)
STUCK = "the change before this one hangs; nothing has changed. Clean up and configure the node"
CLOSED = "the node was cleaned up or ends; nothing has changed"


class BusyError(VocabularyError):
    """So many requests wait that this one was refused at once."""


class _Change(Generic[Result]):
    """A request with its deadline."""

    def __init__(self, work: Callable[[Check], Result]) -> None:
        self.work = work
        self.future: Future[Result] = Future()
        self.deadline = monotonic() + DEADLINE_S
        self.cancelled = ""

    def check(self) -> None:
        """Raise VocabularyError if it must give up."""
        if self.cancelled:
            raise VocabularyError(self.cancelled)
        if monotonic() > self.deadline:
            raise VocabularyError(LATE)

    def refuse(self, reason: str) -> None:
        """Answer it, if nobody has, and let the work give up."""
        self.cancelled = self.cancelled or reason
        with suppress(InvalidStateError):
            self.future.set_exception(VocabularyError(reason))


class Changes:
    """Makes changes on a thread of its own, one after another. Any thread may call any method."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[_Change[Any]] = deque()
        self._at_work: _Change[Any] | None = None
        self._closed = False
        with self._changed:
            self._thread = self._new_thread()

    def _new_thread(self) -> threading.Thread:
        # A daemon: a text encoder that hangs must not keep the process alive.
        thread = threading.Thread(target=self._run, name="vocabulary", daemon=True)
        thread.start()
        return thread

    def submit(self, work: Callable[[Check], Result], *, reset: bool = False) -> Future[Result]:
        """Let a change be made after those that wait.

        Args:
            work: called on the thread. It calls its argument between two steps, and once more before the
                change counts.
            reset: cancel all that came before, the one at work between two of its steps.

        Returns:
            The future of what `work` returns. It gets VocabularyError if the change is cancelled or late.

        Raises:
            BusyError: too many wait.
            VocabularyError: the one at work hangs, or it is closed.
        """
        change = _Change(work)
        with self._changed:
            if self._closed:
                raise VocabularyError(CLOSED)
            if self._overdue():
                raise VocabularyError(STUCK)
            before = []
            if reset:
                before = list(self._waiting)
                self._waiting.clear()
                if self._at_work is not None:
                    self._at_work.cancelled = RESET
            elif len(self._waiting) >= MOST_WAITING:
                raise BusyError(BUSY)
            self._waiting.append(change)
            self._changed.notify()
        _refuse(before, RESET)
        return change.future

    def expire(self) -> None:
        """Refuse the requests that are past their deadline. To be called now and then."""
        now = monotonic()
        with self._changed:
            late = [change for change in self._waiting if now > change.deadline]
            for change in late:
                self._waiting.remove(change)
            if hangs := self._overdue():
                stuck = list(self._waiting)
                self._waiting.clear()
        _refuse(late, LATE)
        if hangs:
            _refuse([hangs], HANGS)
            _refuse(stuck, STUCK)

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    @property
    def hangs(self) -> str:
        """Where the request at work hangs; empty if it does not."""
        with self._changed:
            return whereabouts(self._thread) if self._overdue() else ""

    def _overdue(self) -> _Change[Any] | None:
        """The request at work if it has not given up in time. The lock is held."""
        late = self._at_work is not None and monotonic() > self._at_work.deadline + GRACE_S
        return self._at_work if late else None

    def cancel(self) -> bool:
        """Refuse all requests. One at work keeps its thread to itself, and another thread takes over.

        Returns:
            Whether one was at work.
        """
        with self._changed:
            refused = list(self._waiting)
            self._waiting.clear()
            at_work, self._at_work = self._at_work, None
            if at_work is not None:
                refused.append(at_work)
                self._thread = self._new_thread()
        _refuse(refused, CLOSED)
        return at_work is not None

    def close(self) -> None:
        """Refuse all requests, now and later."""
        self.cancel()
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        let_others_go_first()  # New words may wait; frames may not.
        while True:
            with self._changed:
                if self._thread is not threading.current_thread():
                    return
                self._at_work = None
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                change = self._at_work = self._waiting.popleft()
            try:
                change.check()
                result = change.work(change.check)
            except Exception as error:  # It is whose request it is who has to know.
                with suppress(InvalidStateError):  # It was refused meanwhile.
                    change.future.set_exception(error)
            else:
                with suppress(InvalidStateError):
                    change.future.set_result(result)


def _refuse(changes: list[_Change[Any]], reason: str) -> None:
    # Without the lock: whoever waits for a future may call `submit`.
    for change in changes:
        change.refuse(reason)
