"""What happened to the frames lately: for diagnostics."""

import threading
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic

import numpy as np

WINDOW_S = 10.0
RECENT = 600


@dataclass(frozen=True)
class Summary:
    """The last WINDOW_S seconds, and drops since the start.

    Attributes:
        last_arrival: when the last image came, monotonic seconds; None before the first one.
        images, frames: how many came and were published since the start.
        key_frames, propagated: how many were segmented, and how many of those published have the labels of
            another one, since the start.
        arrived_hz, published_hz: frames a second.
        key_hz, propagated_hz: frames a second that were segmented, and that were published with the labels of
            another one.
        lost_share: the share of the images that was lost on the way here, in [0, 1].
        age_ms: (median, 95th percentile) of how old the images were when they were published, by their stamps
            and the node's clock; NaN without frames.
        frame_ms: (median, 95th percentile) of the published frames' time in the worker.
        stages_ms: the median of each step.
        dropped: reason -> frames since the start.
        dropped_lately: reason -> frames since the last summary.
    """

    last_arrival: float | None
    images: int
    frames: int
    key_frames: int
    propagated: int
    arrived_hz: float
    published_hz: float
    key_hz: float
    propagated_hz: float
    lost_share: float
    age_ms: tuple[float, float]
    frame_ms: tuple[float, float]
    stages_ms: Mapping[str, float]
    dropped: Mapping[str, int]
    dropped_lately: Mapping[str, int]


class Statistics:
    """Counts frames. Any thread may call it.

    Attributes:
        images, frames: how many have come and were published since the start.
        key_frames, propagated: as `Summary` has them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.images = self.frames = self.key_frames = self.propagated = 0
        self._since = monotonic()
        self._arrivals: deque[float] = deque(maxlen=RECENT)
        self._lost: deque[float] = deque(maxlen=RECENT)
        self._published: deque[tuple[float, float, Mapping[str, float], bool]] = deque(maxlen=RECENT)
        self._segmented: deque[tuple[float, Mapping[str, float]]] = deque(maxlen=RECENT)
        self._dropped: Counter[str] = Counter()
        self._reported: Counter[str] = Counter()

    def arrived(self, count: int = 1) -> None:
        """Images came in."""
        with self._lock:
            self.images += count
            self._arrivals.extend([monotonic()] * count)

    def lost(self, count: int) -> None:
        """Images were lost on the way, so that the middleware never had them whole."""
        with self._lock:
            # A publisher that starts anew can make a middleware count millions.
            self._lost.extend([monotonic()] * min(count, RECENT))

    def dropped(self, reason: str, count: int = 1) -> None:
        """Images will not be published, and why."""
        if count:
            with self._lock:
                self._dropped[reason] += count

    def segmented(self, stages_ms: Mapping[str, float]) -> None:
        """A frame was segmented, with the milliseconds of each step."""
        with self._lock:
            self.key_frames += 1
            self._segmented.append((monotonic(), stages_ms))

    def published(self, age_ms: float, stages_ms: Mapping[str, float], propagated: bool = False) -> None:
        """A frame was published.

        Args:
            age_ms: how old its image was then.
            stages_ms: the milliseconds of each step.
            propagated: its labels are those of another frame.
        """
        with self._lock:
            self.frames += 1
            self.propagated += propagated
            self._published.append((monotonic(), age_ms, stages_ms, propagated))

    def summary(self) -> Summary:
        """The last seconds in figures."""
        now = monotonic()
        with self._lock:
            images, published = self.images, self.frames
            segmented, propagated = self.key_frames, self.propagated
            last_arrival = self._arrivals[-1] if self._arrivals else None
            arrived = sum(now - at < WINDOW_S for at in self._arrivals)
            lost = sum(now - at < WINDOW_S for at in self._lost)
            frames = [one[1:] for one in self._published if now - one[0] < WINDOW_S]
            keys = [stages for at, stages in self._segmented if now - at < WINDOW_S]
            dropped = Counter(self._dropped)
            lately = dropped - self._reported
            self._reported = dropped
        seconds = min(WINDOW_S, max(now - self._since, 1.0))
        return Summary(
            last_arrival=last_arrival,
            images=images,
            frames=published,
            key_frames=segmented,
            propagated=propagated,
            arrived_hz=arrived / seconds,
            published_hz=len(frames) / seconds,
            key_hz=len(keys) / seconds,
            propagated_hz=sum(carried for _, _, carried in frames) / seconds,
            lost_share=lost / max(lost + arrived, 1),
            age_ms=_percentiles([age for age, _, _ in frames]),
            frame_ms=_percentiles([sum(stages.values()) for _, stages, _ in frames]),
            stages_ms=_medians(keys) | _medians([stages for _, stages, _ in frames]),
            dropped=dropped,
            dropped_lately=lately,
        )


def _medians(frames: list[Mapping[str, float]]) -> dict[str, float]:
    """Of each step of the last frame."""
    return {
        stage: float(np.median([stages[stage] for stages in frames if stage in stages]))
        for stage in (frames[-1] if frames else ())
    }


def _percentiles(values: list[float]) -> tuple[float, float]:
    median, high = np.percentile(values or [np.nan], [50, 95])
    return float(median), float(high)
