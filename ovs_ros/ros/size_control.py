"""How many patches a frame is cut into, so that the node reaches a rate. Neither clock nor threads nor ROS.

A frame's time has a part that grows with the patches, the encoder's, and a rest. The controller goes down as
many sizes as it has to at once, and up one by one. What a size really cost, against its neighbour, is learned
at each change, so that a size that was too slow is not tried again while the load stays the same.
"""

import math
from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

STEP, LEAST = 0.85, 1 / 3
"""The ratio of one size to the next, and the smallest one as a share of the model's own: below that, a little
time costs much accuracy (docs/research/embedded-model.md)."""
FIRST = 2
"""Frames after a start or a change that do not count: the first one of a size makes buffers."""
FEW, MANY = 10, 30
"""How many frames a decision to go down and one to go up look at; there is one every FEW frames."""
AIM, RAISE = 0.95, 0.85
"""The share of the time for a frame that a smaller size may take, and that a larger one may."""
MOST_ERROR = 1.4
"""By what factor a size may cost more or less than its patches say. A change of load looks like more."""


class State(NamedTuple):
    """What the controller has come to.

    Attributes:
        patches: how many an image is cut into at most.
        of: how many the model's own size has.
        encoder_ms, frame_ms: medians of the last frames of this size; NaN before the first one.
        reason: why the size is what it is.
        reached: whether the rate is reached, or may still be at a smaller size.
    """

    patches: int
    of: int
    encoder_ms: float
    frame_ms: float
    reason: str
    reached: bool = True


class SizeControl:
    """Chooses the size of the next frames from the times of the last ones.

    Args:
        patches: of the model's own size, which no choice exceeds.

    Attributes:
        sizes: what it chooses among, the largest first.
        state: what it has come to; replaced as a whole, so that any thread may read it.
    """

    def __init__(self, patches: int) -> None:
        steps = range(math.ceil(math.log(LEAST) / math.log(STEP)))
        shares = [*(STEP**step for step in steps), LEAST]
        self.sizes = tuple(dict.fromkeys(max(1, round(patches * share)) for share in shares))
        self._costs = np.array(self.sizes, float)  # Of the encoder, against each other.
        self._at = 0
        self._before: tuple[int, float] | None = None
        self._skip, self._since = FIRST, 0
        self._frames: deque[tuple[float, float]] = deque(maxlen=MANY)
        nan = float("nan")
        self.state = State(patches, patches, nan, nan, "the model's own size")

    def add(self, encoder_ms: float, frame_ms: float, rate: float) -> bool:
        """Take the times of a frame. Returns whether `state` has another size now.

        Args:
            encoder_ms: of the part that grows with the patches.
            frame_ms: of the whole frame, this part included.
            rate: frames a second to reach; 0: whatever the model's own size gives.
        """
        if rate == 0 and self._at > 0:
            self._before = None  # What it said was of another time.
            self._go(0, "target_rate is 0")
            return True
        if self._skip:
            self._skip -= 1
            return False
        self._frames.append((encoder_ms, frame_ms - encoder_ms))
        self._since += 1
        if self._since < FEW:
            return False
        self._since = 0
        times = np.array(self._frames)  # (n, 2)
        encode, rest = np.median(times[-FEW:], axis=0)
        self._learn(encode)
        self.state = self.state._replace(encoder_ms=float(encode), frame_ms=float(encode + rest))
        return rate > 0 and self._decide(times, encode, rest, 1e3 / rate)

    def _decide(self, times: NDArray[np.float64], encode: float, rest: float, budget: float) -> bool:
        """Choose the size for frames whose last FEW have the medians `encode` and `rest`."""
        at, last = self._at, len(self.sizes) - 1
        slow = encode + rest > budget
        self.state = self.state._replace(reached=not (slow and at == last))
        growth = self._costs / self._costs[at]  # (sizes,)
        if slow and at < last:
            fits = rest + encode * growth <= AIM * budget
            to = max(at + 1, int(fits.argmax()) if fits.any() else last)
        elif at > 0 and len(times) == MANY:
            larger = times @ (growth[at - 1], 1.0)  # (MANY,) of what frames would take
            to = at - 1 if np.percentile(larger, 90) <= RAISE * budget else at
        else:
            to = at
        if to != at:
            self._before = at, encode
            self._go(to, f"frames took {encode + rest:.0f} ms, target_rate leaves {budget:.0f} ms")
        return to != at

    def _learn(self, encode: float) -> None:
        """What this size costs against the one before, once enough frames are there."""
        if self._before is None:
            return
        before, encode_before = self._before
        self._before = None
        cost = self._costs[before] * encode / max(encode_before, 1e-9)
        said = self.sizes[self._at]
        self._costs[self._at] = np.clip(cost, said / MOST_ERROR, said * MOST_ERROR)

    def _go(self, at: int, reason: str) -> None:
        self._at, self._skip, self._since = at, FIRST, 0
        self._frames.clear()
        nan = float("nan")
        self.state = State(self.sizes[at], self.sizes[0], nan, nan, reason)
