"""Propagation: the labels of a key frame, carried along to the frames after it.

The encoder takes longer than a camera's period. Deep Feature Flow (Zhu et al., CVPR 2017) therefore runs the
network on key frames alone and carries its features to the other frames by optical flow. Here labels and
confidences are carried, at the image's own resolution. What the key frame does not show is filled from where
its logits are upsampled nearest to it, or is unknown.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary, ref

import cv2
import numpy as np
from numpy.typing import NDArray

from ovs_ros.geometry.flow import DownscaledFrame, OpticalFlow
from ovs_ros.geometry.reprojection import Sight, reproject
from ovs_ros.geometry.warp import Warp
from ovs_ros.options import PropagateFill
from ovs_ros.runtime.stage_clock import StageClock
from ovs_ros.steps.relabel import with_labels
from ovs_ros.steps.segmentation import Segmentation

LONGEST_S = 2.0
"""Labels are not carried over more seconds than this."""
LEAST_COVERED = 0.5
"""The share of the pixels that the key frame has to show: with less, the frame has to be segmented itself."""
TRUST_S = 20.0
"""Seconds after which the confidence of a carried label falls to 1/e."""
MISMATCH_TRUST = 510.0
"""Grey levels of mismatch at which it would fall to 0: at 255, the most there can be, it is half."""
FILLED_TRUST = 0.9
"""What the confidence of a filled pixel is multiplied by."""
_STEP = 4
"""Every so many pixels, each way, the trust in a carried label is computed."""

View = TypeVar("View")
Motion = Callable[[View, View], Warp | None]


class SharedMotion(Generic[View]):
    """Finds the motion between two views once, whoever asks for it, while the later view lives.

    Args:
        motion: where the pixels of one view lay in an earlier one of the same size; None where the two have
            nothing in common.
    """

    def __init__(self, motion: Motion[View]) -> None:
        self._motion = motion
        self._found: WeakKeyDictionary[View, tuple[ref[View], Warp | None]] = WeakKeyDictionary()

    def __call__(self, now: View, before: View) -> Warp | None:
        """As `motion`."""
        found = self._found.get(now)
        if found is None or found[0]() is not before:
            # A weak reference: a strong one would keep all key frames there ever were.
            found = self._found[now] = ref(before), self._motion(now, before)
        return found[1]


@dataclass(frozen=True, eq=False)
class _Key(Generic[View]):
    result: Segmentation
    stamp: float
    view: View


class Propagation(Generic[View]):
    """Carries the labels of the newest key frame of one stream to other frames. For one thread.

    Args:
        motion: as `SharedMotion` has it.
    """

    def __init__(self, motion: Motion[View]) -> None:
        self._motion = motion
        self._key: _Key[View] | None = None

    def keep(self, result: Segmentation, stamp: float, view: View) -> None:
        """Make a frame the key frame.

        Args:
            result: of the frame, as it was segmented; kept, and not changed.
            stamp: the frame's time in seconds, of any clock that the whole stream shares.
            view: what the motion is found from.
        """
        self._key = _Key(result, stamp, view)

    def reset(self) -> None:
        """Forget the key frame."""
        self._key = None

    def carry(self, stamp: float, view: View, fill: PropagateFill = "nearest") -> Segmentation | None:
        """The key frame's labels where they are in another frame of the same size.

        Args:
            stamp, view: of the frame, as in `keep`.
            fill: what pixels get that the key frame does not show: 'nearest', its label where the pixel's
                point should lie, at its edge if that is outside; or 'unknown'.

        Returns:
            Labels and confidences, which are lower the older the key frame is and the more the two differ,
            and shares to match; the scores are the key frame's. `stages_ms` has the stage 'propagate' alone.
            None: there is no key frame, it is not within LONGEST_S before the frame, or it shows less than
            LEAST_COVERED of it, as after a cut or in a fast turn.
        """
        clock, key = StageClock(), self._key
        if key is None or not 0 <= stamp - key.stamp <= LONGEST_S:
            return None
        warp = self._motion(view, key.view)
        carried = None if warp is None else propagate(key.result, warp, stamp - key.stamp, fill)
        clock.stage("propagate")
        return None if carried is None else replace(carried, stages_ms=clock.stages_ms)


def flow_propagation() -> Propagation[DownscaledFrame]:
    """Follows pixels by optical flow; views are `DownscaledFrame.of(image)`."""
    return Propagation(OpticalFlow())


def depth_propagation() -> Propagation[Sight]:
    """Follows points by depth and the camera's pose."""
    return Propagation(reproject)


def propagate(
    key: Segmentation, warp: Warp, seconds: float, fill: PropagateFill = "nearest"
) -> Segmentation | None:
    """Carry a key frame's labels along a warp of the same size; see `Propagation.carry`.

    Args:
        key: the key frame's result, (H, W).
        warp: where the frame's pixels were in the key frame, (H, W).
        seconds: from the key frame to the frame.
        fill: as in `Propagation.carry`.
    """
    height, width = key.labels.shape
    uncovered = warp.uncovered((height, width), _STEP)  # (h, w)
    if 1 - uncovered.mean() < LEAST_COVERED:
        return None
    trust = _trust(warp, uncovered, seconds)  # (h, w)
    if fill == "unknown":
        labels, confidence = warp.take(key.labels, key.unknown_id), warp.take(key.confidence, 0)
    else:
        labels, confidence = warp.fill(key.labels), warp.fill(key.confidence)  # (H, W)
    confidence = cv2.multiply(confidence, cv2.resize(trust, (width, height)), scale=1 / 255)
    return with_labels(key, labels, confidence)


def _trust(warp: Warp, uncovered: NDArray[np.bool_], seconds: float) -> NDArray[np.uint8]:
    """(h, w) uint8 in 1/255: what confidences are multiplied by; `uncovered` is (h, w)."""
    trust: NDArray[Any] = np.where(uncovered, np.float32(255 * FILLED_TRUST), np.float32(255))
    trust *= np.float32(math.exp(-seconds / TRUST_S))
    if warp.mismatch is not None:
        rows, columns = uncovered.shape
        mismatch = cv2.resize(warp.mismatch, (columns, rows), interpolation=cv2.INTER_AREA)
        trust *= 1 - mismatch / np.float32(MISMATCH_TRUST)
    return (trust + np.float32(0.5)).astype(np.uint8)
