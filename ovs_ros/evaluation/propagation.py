"""How well the labels of a key frame, carried along, agree with a fresh decision and with the truth."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ovs_ros.evaluation.metrics import ConfusionMatrix
from ovs_ros.geometry.flow import DownscaledFrame, OpticalFlow
from ovs_ros.geometry.reprojection import Sight, reproject
from ovs_ros.options import OFF, PropagateFill
from ovs_ros.steps.propagation import Propagation, SharedMotion
from ovs_ros.steps.segmentation import Segmentation

_MOTIONS: dict[str, Callable[[], Any]] = {"flow": OpticalFlow, "depth": lambda: reproject}


class Frame(NamedTuple):
    """A frame of a recording.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        sight: what was measured with it; None: nothing.
        truth: (H, W) uint8, the class of each pixel; values that are no class do not count; None: not known.
    """

    image: NDArray[np.uint8]
    sight: Sight | None = None
    truth: NDArray[np.uint8] | None = None


@dataclass
class CarriedLabels:
    """What one way does at one distance.

    Attributes:
        propagate: 'off' (the key frame's labels where they were), 'flow' or 'depth'.
        distance: frames from the key frame on.
        frames, refused: how many frames were asked for, and how many of them are to be segmented themselves.
        covered: the share of the pixels that the key frame shows, of each frame.
        agreement, covered_agreement: the share of the pixels, and of the covered ones, that have the label of
            a fresh decision, of each frame.
        confidence: the mean of the pixels whose truth is known, 0 to 1, of each frame.
        times_ms: of each frame.
        matrix: against the truth; None: not known.
    """

    propagate: str
    distance: int
    matrix: ConfusionMatrix | None
    frames: int = 0
    refused: int = 0
    covered: list[float] = field(default_factory=list)
    agreement: list[float] = field(default_factory=list)
    covered_agreement: list[float] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)
    times_ms: list[float] = field(default_factory=list)


class PropagationTest:
    """Makes each frame of a recording a key frame, and carries its labels to some of the frames after it.

    Args:
        distances: how many frames after its key frame a frame is looked at.
        fill: as in `Propagation.carry`.
        classes: of the truth (K,), of each label: (65536,) uint16; None: there is no truth.
        count: how many classes there are.

    Attributes:
        ways: what was found, by way and distance, the distances first.
        fresh: fresh decisions against the truth; None: not known.
    """

    def __init__(
        self,
        distances: Sequence[int],
        fill: PropagateFill,
        classes: NDArray[np.uint16] | None = None,
        count: int = 0,
    ) -> None:
        def matrix() -> ConfusionMatrix | None:
            return None if classes is None else ConfusionMatrix(count)

        self._distances = sorted(set(distances))
        self._fill: PropagateFill = fill
        self._classes = classes
        self._keys: deque[_Key] = deque(maxlen=max(distances))
        self._ways = {
            (way, distance): CarriedLabels(way, distance, matrix())
            for distance in self._distances
            for way in (OFF, *_MOTIONS)
        }
        self.fresh = matrix()

    @property
    def ways(self) -> list[CarriedLabels]:
        """Those that were measured."""
        return [way for way in self._ways.values() if way.frames]

    def add(self, frame: Frame, result: Segmentation, stamp: float) -> None:
        """Take the next frame, as it was segmented, and its time in seconds."""
        if self.fresh is not None and frame.truth is not None and self._classes is not None:
            self.fresh.add(frame.truth, self._classes[result.labels])
        for distance in self._distances:
            if distance <= len(self._keys):
                self._look(distance, self._keys[-distance], frame, result, stamp)
        self._keys.append(_Key(result, stamp, frame))

    def _look(self, distance: int, key: "_Key", frame: Frame, result: Segmentation, stamp: float) -> None:
        if key.result.labels.shape != result.labels.shape:
            return
        self._count(self._ways[OFF, distance], frame, result, key.result)
        for name, (propagation, motion) in key.ways.items():
            way = self._ways[name, distance]
            start = perf_counter()
            # Views are made anew, because their making is a part of the time.
            view = _view(name, frame)
            carried = propagation.carry(stamp, view, self._fill)
            way.times_ms.append((perf_counter() - start) * 1e3)
            if carried is None:
                way.frames += 1
                way.refused += 1
                continue
            warp = motion(view, key.views[name])
            assert warp is not None
            shown = warp.take(np.ones(result.labels.shape, np.uint8), 0) > 0  # (H, W)
            way.covered.append(float(shown.mean()))
            way.covered_agreement.append(float((carried.labels == result.labels)[shown].mean()))
            self._count(way, frame, result, carried)

    def _count(self, way: CarriedLabels, frame: Frame, fresh: Segmentation, given: Segmentation) -> None:
        way.frames += 1
        way.agreement.append(float((given.labels == fresh.labels).mean()))
        if way.matrix is not None and frame.truth is not None and self._classes is not None:
            way.matrix.add(frame.truth, self._classes[given.labels])
            known = frame.truth < way.matrix.classes
            way.confidence.append(float(given.confidence[known].mean() / 255) if known.any() else 0.0)


class _Key:
    """A frame whose labels are carried along."""

    def __init__(self, result: Segmentation, stamp: float, frame: Frame) -> None:
        self.result = result
        self.views: dict[str, Any] = {}
        self.ways: dict[str, tuple[Propagation[Any], SharedMotion[Any]]] = {}
        for name, make in _MOTIONS.items():
            if name == "depth" and frame.sight is None:
                continue
            motion = SharedMotion(make())
            propagation = Propagation(motion)
            self.views[name] = _view(name, frame)
            propagation.keep(result, stamp, self.views[name])
            self.ways[name] = propagation, motion


def _view(name: str, frame: Frame) -> DownscaledFrame | Sight:
    if name == "flow":
        return DownscaledFrame.of(frame.image)
    sight = frame.sight
    if sight is None:
        raise ValueError("expected depth and a pose for every frame of the recording, got a frame without")
    return Sight(sight.intrinsics, sight.depth, sight.camera_to_world)
