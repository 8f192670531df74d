"""Flicker: the share of points seen by two frames whose name changes between them."""

import numpy as np
from numpy.typing import NDArray

from ovs_ros.geometry.reprojection import Sight, reproject

AGREEMENT = 0.02
"""Inverse depths of one point may differ by this share; tighter than what the temporal filter follows."""


class Flicker:
    """Compares each frame of a stream with the one before.

    Attributes:
        compared: pixels, over all frames, whose point the frame before sees too: both measured its depth,
            and the depths agree.
        changed: those of them that had another label there. Unknown counts as a name.
        seen: pixels of all frames that had one before.
    """

    def __init__(self) -> None:
        self.compared = 0
        self.changed = 0
        self.seen = 0
        self._before: tuple[NDArray[np.integer], Sight] | None = None

    def add(self, labels: NDArray[np.integer], sight: Sight) -> None:
        """Take the next frame.

        Args:
            labels: (H, W) uint8 or uint16; kept until the next frame.
            sight: what was measured with it; of the same size.
        """
        if self._before is not None:
            earlier, there = self._before
            warp = reproject(sight, there, AGREEMENT, holes=False)
            visible = warp.take(np.ones(earlier.shape, np.uint8), 0) > 0  # (H, W)
            differs = warp.take(earlier, 0) != labels
            self.compared += int(visible.sum())
            self.changed += int((differs & visible).sum())
            self.seen += labels.size
        self._before = labels, sight

    @property
    def rate(self) -> float:
        """The share of the compared pixels that changed their label; NaN if none could be compared."""
        return self.changed / self.compared if self.compared else float("nan")
