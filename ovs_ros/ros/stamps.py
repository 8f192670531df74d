"""Watches the stamps of incoming images: do they go back, and are frames lost on the way?"""

from collections import deque

import numpy as np

WINDOW = 60
ENOUGH = 20
"""From how many gaps on it dares to judge."""


class StampWatch:
    """Sees every image that arrives. Times are nanoseconds.

    A frame counts as lost on the way if its stamp is missing although the next image came promptly: when this
    process itself is late, the images that it still gets have become old too.
    """

    def __init__(self) -> None:
        self._last: int | None = None
        self._gaps: deque[int] = deque(maxlen=WINDOW)
        self._delays: deque[int] = deque(maxlen=WINDOW)

    def see(self, stamp: int, arrival: int) -> bool:
        """Take note of an image. Returns whether its stamp went back."""
        last, self._last = self._last, stamp
        if last is not None and stamp < last:
            self._gaps.clear()
            self._delays.clear()
            return True
        if last is not None and stamp > last:
            self._gaps.append(stamp - last)
            self._delays.append(arrival - stamp)
        return False

    def lost_share(self) -> float:
        """The share of the recent images that was lost on the way, in [0, 1]; 0 while too few were seen."""
        if len(self._gaps) < ENOUGH:
            return 0.0
        gaps = np.array(self._gaps)
        delays = np.array(self._delays)
        period = np.percentile(gaps, 10)
        prompt = delays - delays.min() < period / 2
        missing = np.where(prompt, np.rint(gaps / period) - 1, 0).clip(min=0).sum()
        return float(missing / (missing + len(gaps)))
