"""The temporal filter: a vote over time that removes errors of single frames.

Each pixel has a memory of one name and one weight, which move with the picture. Each frame votes for the name
that it gives to a pixel, with its confidence as the weight; old votes fade by exp(-dt / T). A vote for the
remembered name adds to the weight. A vote for another name subtracts from it; when the weight becomes
negative, the other name is remembered from then on, with the absolute value. This is the majority vote of
Boyer and Moore (1981) with weights, as PanopticFusion (Narita et al., IROS 2019) keeps it in voxels, and with
forgetting. A change from a name of probability p to one of probability q shows after about T ln(1 + p / q)
seconds at any frame rate.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from ovs_ros.geometry.flow import DownscaledFrame, OpticalFlow
from ovs_ros.geometry.reprojection import Sight, reproject
from ovs_ros.geometry.warp import Warp
from ovs_ros.options import NodeOptions
from ovs_ros.runtime.stage_clock import StageClock
from ovs_ros.steps.relabel import with_labels
from ovs_ros.steps.segmentation import Segmentation
from ovs_ros.vocabulary.vocabulary import Vocabulary

UNKNOWN_WEIGHT = np.float32(0.5)
"""The weight of a vote for unknown, relative to one for a name of the same probability."""

View = TypeVar("View")


@dataclass(frozen=True, eq=False)
class _Memory(Generic[View]):
    """labels: (H, W) uint8 or uint16; weight: (H, W) float32 in 1/255, not negative."""

    labels: NDArray[np.uint8] | NDArray[np.uint16]
    weight: NDArray[np.float32]
    vocabulary: Vocabulary
    stamp: float
    view: View


class TemporalFilter(Generic[View]):
    """Filters the segmentations of one stream. For one thread.

    It starts anew after another vocabulary (evidence for some words says nothing of others), another image
    size, a stamp that is not later than the one before, and a cut.

    Args:
        motion: where the pixels of one view (what is known of a frame beside its names) lay in an earlier one
            of the same size; None where the two have nothing in common.
        time_constant: T, the seconds after which a vote counts 1/e; an attribute that may be changed.

    Raises:
        ValueError: the time constant is not above 0.
    """

    def __init__(
        self,
        motion: Callable[[View, View], Warp | None],
        time_constant: float = NodeOptions.temporal_filter_time,
    ) -> None:
        if not time_constant > 0:
            raise ValueError(f"expected a time constant above 0 seconds, got {time_constant}")
        self.time_constant = time_constant
        self._motion = motion
        self._memory: _Memory[View] | None = None

    def reset(self) -> None:
        """Forget everything."""
        self._memory = None

    def apply(self, result: Segmentation, stamp: float, view: View) -> Segmentation:
        """Filter the frame's names with those of the frames before.

        Args:
            result: of the frame, as the segmenter gives it; not changed, and not kept.
            stamp: the frame's time in seconds, of any clock that the whole stream shares.
            view: what the motion is found from; kept until the next frame.

        Returns:
            The frame with filtered labels, and shares to match. Categories that only the memory knows have
            score 0. Where the memory overrules the frame, the confidence is the margin by which its name
            leads, averaged over the votes. `stages_ms` has one more stage, 'temporal_filter'.
        """
        clock = StageClock(dict(result.stages_ms))
        memory = self._memory
        warp = None
        if (
            memory is not None
            and memory.vocabulary is result.vocabulary
            and memory.labels.shape == result.labels.shape
            and stamp > memory.stamp
        ):
            warp = self._motion(view, memory.view)
        votes = _votes(result)  # (H, W)
        if memory is None or warp is None:
            self._memory = _Memory(result.labels.copy(), votes, result.vocabulary, stamp, view)
            filtered = result
        else:
            fade = math.exp((memory.stamp - stamp) / self.time_constant)
            labels, weight, confidence = _merged(result, votes, memory, warp, fade)
            self._memory = _Memory(labels.copy(), weight, result.vocabulary, stamp, view)
            filtered = with_labels(result, labels, confidence)
        clock.stage("temporal_filter")
        return replace(filtered, stages_ms=clock.stages_ms)


def flow_filter(time_constant: float = NodeOptions.temporal_filter_time) -> TemporalFilter[DownscaledFrame]:
    """Follows pixels by optical flow; views are `DownscaledFrame.of(image)`."""
    return TemporalFilter(OpticalFlow(), time_constant)


def pose_filter(time_constant: float = NodeOptions.temporal_filter_time) -> TemporalFilter[Sight]:
    """Follows points by depth and the camera's pose."""
    return TemporalFilter(reproject, time_constant)


def _votes(result: Segmentation) -> NDArray[np.float32]:
    """(H, W) float32, what the frame's vote for each of its names weighs, in 1/255."""
    votes = result.confidence.astype(np.float32)
    if result.unknown_share > 0:
        cv2.copyTo(votes * UNKNOWN_WEIGHT, _mask(result.labels == result.unknown_id), votes)
    return votes


def _merged(
    result: Segmentation, votes: NDArray[np.float32], memory: _Memory[View], warp: Warp, fade: float
) -> tuple[NDArray[np.uint8] | NDArray[np.uint16], NDArray[np.float32], NDArray[np.uint8]]:
    """Labels, weight and confidence (H, W) of the memory after a frame's votes."""
    labels = warp.take(memory.labels, result.unknown_id)  # (H, W)
    weight = warp.take(memory.weight, 0)  # (H, W)
    weight *= np.float32(fade)
    differs = _mask(labels != result.labels)  # (H, W)
    cv2.add(weight, votes, dst=weight, mask=_mask(labels == result.labels))
    cv2.subtract(weight, votes, dst=weight, mask=differs)
    overruled = differs & _mask(weight > 0)  # (H, W)
    np.abs(weight, out=weight)
    margin = cv2.convertScaleAbs(weight, alpha=1 - fade)  # (H, W) uint8
    return (
        cv2.copyTo(labels, overruled, result.labels.copy()),
        weight,
        cv2.copyTo(margin, overruled, result.confidence.copy()),
    )


def _mask(where: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """For OpenCV, whose masked operations take a fraction of NumPy's time."""
    return where.view(np.uint8)
