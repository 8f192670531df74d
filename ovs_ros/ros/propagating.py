"""Labels for every frame at once: carried from the newest key frame, while the encoder works on the next one.

Two threads share the work. The thread of propagation takes each frame as it comes, carries the newest key
frame's labels to it, and publishes. It offers each frame to the encoder's thread too, which takes the newest
one when it is free and hands back the result. So a frame never waits for the encoder, and all that is
published comes from one thread, in the order in which the frames came.

When a key frame's result is there, its own frame has mostly been published before, with carried labels: then
the result counts only for the frames after it. It is published itself if nothing of its age or newer was: at
the start, after a cut, in a fast turn, and where depth or poses lack.
"""

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from time import monotonic
from typing import Any

from ovs_ros.options import NodeOptions
from ovs_ros.ros.frames import Frame, FrameQueue
from ovs_ros.ros.inputs import Inputs
from ovs_ros.ros.motion import motion
from ovs_ros.ros.pipeline import Asked, Pipeline, Prepared
from ovs_ros.ros.statistics import Statistics
from ovs_ros.ros.temporal import TemporalFiltering
from ovs_ros.steps.propagation import Propagation, SharedMotion
from ovs_ros.steps.relabel import hide
from ovs_ros.steps.segmentation import Segmentation

NO_KEY_FRAME = "no key frame fits"
"""Why a frame that was not segmented has no labels."""
QUIET_S = 1.0
"""Seconds without a frame after which new words are announced, although labels of the old ones may come."""


@dataclass(eq=False)
class Candidate:
    """A frame that the encoder may take.

    Attributes:
        prepared: the frame.
        view: what the motion to other frames is found from; None: it lacks.
        number: counts the camera's frames in the order in which they came.
        published: whether it has labels.
    """

    prepared: Prepared
    view: Any
    number: int
    published: bool = False


class Propagating:
    """Publishes the frames of one camera. For the thread of propagation.

    Args:
        pipeline: what a frame passes through.
        options: of the node.
        inputs: where depth and poses come from.
        statistics: told of every frame.
        camera: its index in both queues.
        queue: where frames wait for this thread; woken when the encoder has a result.
        candidates: where frames wait for the encoder.

    Attributes:
        encoding: what the encoder's thread does.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        options: NodeOptions,
        inputs: Inputs,
        statistics: Statistics,
        camera: int,
        queue: FrameQueue[Frame],
        candidates: FrameQueue[Candidate],
    ) -> None:
        self._pipeline = pipeline
        self._kind = options.propagate
        self._inputs = inputs
        self._statistics = statistics
        self._camera = camera
        self._candidates = candidates
        self._results: deque[tuple[Candidate, Segmentation]] = deque()
        shared: SharedMotion[Any] = SharedMotion(motion(self._kind))
        self._propagation: Propagation[Any] = Propagation(shared)
        self._temporal_filter = TemporalFiltering(shared)
        self._key: Candidate | None = None
        self._newest: Candidate | None = None
        self._count = self._last = 0
        self._busy_at = 0.0
        self.encoding = Encoding(pipeline, self._results, queue)

    def announce(self) -> None:
        """Take the encoder's results, and publish what the ids mean if that has changed.

        The labels of a key frame mean what its own words say. While frames come, new words are therefore
        announced with their first key frame.
        """
        while self._results:
            self._take(*self._results.popleft())
        if self._key is None or monotonic() - self._busy_at > QUIET_S:
            self._pipeline.announce()

    def process(self, frame: Frame) -> Generator[Asked, Segmentation, None]:
        """Publish a frame with carried labels if a key frame fits, and offer it to the encoder."""
        self._process(frame)
        yield from ()  # It asks this thread for nothing.

    def _process(self, frame: Frame) -> None:
        prepared = self._pipeline.prepare(frame)
        if prepared is None:
            return
        self._busy_at = monotonic()
        self._count += 1
        view = self._pipeline.view(self._kind, prepared, "No labels can be carried to a frame")
        self._newest = candidate = Candidate(prepared, view, self._count)
        carried = self._carried(candidate)
        replaced = self._candidates.put(self._camera, candidate)
        if replaced is not None and not replaced.published:
            self._statistics.dropped(NO_KEY_FRAME)
        if carried is not None:
            self._publish(candidate, carried, self._key)

    def failed(self, error: Exception) -> None:
        """A frame could not be published."""
        self._pipeline.failed(error)

    def _carried(self, candidate: Candidate) -> Segmentation | None:
        """The labels of the newest key frame in another frame; None: it does not fit."""
        key = self._key
        if key is None or candidate.view is None:
            return None
        if key.prepared.image.shape != candidate.prepared.image.shape:
            return None
        fill = self._pipeline.options.propagate_fill
        return self._propagation.carry(candidate.prepared.seconds, candidate.view, fill)

    def _take(self, candidate: Candidate, result: Segmentation) -> None:
        """Make a frame that was segmented the key frame, and publish what waits for it."""
        prepared = candidate.prepared
        if self._temporal_filter.follow(self._pipeline.options) and candidate.view is not None:
            result = self._temporal_filter.apply(result, prepared.seconds, candidate.view)
        if (hidden := prepared.measurements.hidden) is not None:
            result = hide(result, hidden)  # Nor does the key frame show what stands behind the robot.
        self._statistics.segmented(result.stages_ms)
        if candidate.view is None:
            self._propagation.reset()
        else:
            self._propagation.keep(result, prepared.seconds, candidate.view)
        self._key = candidate
        self._busy_at = monotonic()
        if candidate.number > self._last:
            self._inputs.complete(prepared.frame)
            self._publish(candidate, result, None)
        elif not candidate.published:
            self._statistics.dropped(NO_KEY_FRAME)
        newest = self._newest
        if newest is not None and newest.number > max(self._last, candidate.number):
            carried = self._carried(newest)
            if carried is not None:
                self._publish(newest, carried, candidate)

    def _publish(self, candidate: Candidate, result: Segmentation, key: Candidate | None) -> None:
        self._pipeline.announce_words(result.vocabulary)
        candidate.published, self._last = True, candidate.number
        self._pipeline.publish(candidate.prepared, result, None if key is None else key.prepared.header)


class Encoding:
    """Has the key frames of one camera segmented. For the encoder's thread.

    Args:
        pipeline: what a frame passes through.
        results: where results go.
        queue: woken when there is one.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        results: deque[tuple[Candidate, Segmentation]],
        queue: FrameQueue[Frame],
    ) -> None:
        self._pipeline = pipeline
        self._results = results
        self._queue = queue

    def announce(self) -> None:
        """Nothing: the other thread does."""

    def process(self, frame: Candidate) -> Generator[Asked, Segmentation, None]:
        """Have a frame segmented, with the words that hold now."""
        result = yield from self._pipeline.result(frame.prepared, self._pipeline.words)
        self._results.append((frame, result))
        self._queue.wake()

    def failed(self, error: Exception) -> None:
        """A frame could not be segmented."""
        self._pipeline.failed(error)
