"""Where callbacks leave frames for the worker: the newest frame wins."""

import threading
from collections import OrderedDict, defaultdict
from typing import Generic, TypeVar

Frame = TypeVar("Frame")
Companion = TypeVar("Companion")
Kind = TypeVar("Kind")

COMPANIONS = 10
"""How many companions of each kind are kept for frames that are still to come or at work."""


class Mailbox(Generic[Frame, Companion]):
    """One place for the newest frame, and a few for companions that belong to frames by their stamps.

    Companions are told apart by their type; a frame has at most one of each.

    Every method may be called from any thread; only `take` and `companion` wait.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._companions: defaultdict[type, OrderedDict[int, Companion]] = defaultdict(OrderedDict)
        self._woken = False
        self._closed = False

    def put(self, frame: Frame) -> bool:
        """Leave a frame. Returns whether it took the place of one that nobody had taken."""
        with self._changed:
            replaced = self._frame is not None
            self._frame = frame
            self._changed.notify_all()
        return replaced

    def put_companion(self, stamp: int, companion: Companion) -> None:
        """Leave what belongs to the frame of this stamp."""
        with self._changed:
            kept = self._companions[type(companion)]
            kept[stamp] = companion
            if len(kept) > COMPANIONS:
                kept.popitem(last=False)
            self._changed.notify_all()

    def wake(self) -> None:
        """Let a waiting `take` return without a frame."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def close(self) -> None:
        """Let everyone who waits return, now and from now on. A frame that nobody took is dropped."""
        with self._changed:
            self._closed = True
            self._frame = None
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def take(self) -> Frame | None:
        """Wait for a frame and take it out; None if it was woken or closed instead."""
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or self._woken or self._closed)
            frame, self._frame, self._woken = self._frame, None, False
            return frame

    def companion(self, kind: type[Kind], stamp: int, timeout: float) -> Kind | None:
        """Take out what of this type belongs to the frame of this stamp.

        Waits at most `timeout` seconds, and no longer than until a newer frame is there.
        """
        with self._changed:
            kept = self._companions[kind]
            self._changed.wait_for(lambda: stamp in kept or self._frame is not None or self._closed, timeout)
            companion = kept.pop(stamp, None)
            assert companion is None or isinstance(companion, kind)
            return companion
