"""Which camera is next, and which frames come too soon. Callers bring clock and threads."""

import math
from collections.abc import Collection, Sequence


class Turns:
    """Gives cameras that wait their turns, in the ratio of their priorities (start-time fair queueing).

    Turns are counted in frames, not in seconds: cameras of equal priority get equally many, whatever the size
    of their images. A camera that misses its turns gets one of them later, because its next frame may just be
    on the way, and no more.
    """

    def __init__(self, cameras: int) -> None:
        self._now = 0.0  # in turns of a camera with priority 1
        self._due = [0.0] * cameras
        self._last = [0] * cameras
        self._given = 0

    def next(self, waiting: Collection[int], priorities: Sequence[float], most: int = 1) -> list[int]:
        """Choose among the cameras that wait, by their indices: who is next, and who comes after it.

        Turns are given until a camera would have its second one, so that cameras which are chosen together
        keep the ratio of their priorities.

        Args:
            waiting: at least one index.
            priorities: one for each camera, above 0.
            most: how many to choose at most; at least 1.
        """

        def start(camera: int) -> float:
            return max(self._due[camera], self._now - 1 / priorities[camera])

        chosen: list[int] = []
        while len(chosen) < min(most, len(waiting)):
            camera = min(waiting, key=lambda one: (start(one), self._last[one]))
            if camera in chosen:
                break
            self._due[camera] = start(camera) + 1 / priorities[camera]
            self._now = max(self._now, self._due[camera] - 1 / priorities[camera])
            self._given += 1
            self._last[camera] = self._given
            chosen.append(camera)
        return chosen


EARLY = 0.25
"""By what share of a period a frame may come too early: a camera at the rate passes, though it jitters."""


class RateLimit:
    """Lets frames pass up to a rate. Frames at uneven times, or just above the rate, pass at that rate."""

    def __init__(self) -> None:
        self._due = -math.inf

    def passes(self, now: float, rate: float) -> bool:
        """Whether a frame that comes now passes.

        Args:
            now: seconds; never less than before.
            rate: frames a second, above 0.
        """
        period = 1 / rate
        if now < self._due - EARLY * period:
            return False
        # Counted from when it was due, so that the time until a frame came is not lost to the rate.
        self._due = (self._due if now - self._due < period else now) + period
        return True
