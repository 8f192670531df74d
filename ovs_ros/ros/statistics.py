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
        arrived_hz, published_hz: frames a second.
        lost_share: the share of the images that was lost on the way here, in [0, 1].
        age_ms: (median, 95th percentile) of how old the images were when they were published, by their stamps
            and the node's clock; NaN without frames.
        frame_ms: (median, 95th percentile) of the frames' time in the worker.
        stages_ms: the median of each step.
        dropped: reason -> frames since the start.
        dropped_lately: reason -> frames since the last summary.
    """

    last_arrival: float | None
    images: int
    frames: int
    arrived_hz: float
    published_hz: float
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
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.images = self.frames = 0
        self._since = monotonic()
        self._arrivals: deque[float] = deque(maxlen=RECENT)
        self._lost: deque[float] = deque(maxlen=RECENT)
        self._published: deque[tuple[float, float, Mapping[str, float]]] = deque(maxlen=RECENT)
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

    def published(self, age_ms: float, stages_ms: Mapping[str, float]) -> None:
        """A frame was published: how old its image was then, and the milliseconds of each step."""
        with self._lock:
            self.frames += 1
            self._published.append((monotonic(), age_ms, stages_ms))

    def summary(self) -> Summary:
        """The last seconds in figures."""
        now = monotonic()
        with self._lock:
            images, published = self.images, self.frames
            last_arrival = self._arrivals[-1] if self._arrivals else None
            arrived = sum(now - at < WINDOW_S for at in self._arrivals)
            lost = sum(now - at < WINDOW_S for at in self._lost)
            frames = [(age, stages) for at, age, stages in self._published if now - at < WINDOW_S]
            dropped = Counter(self._dropped)
            lately = dropped - self._reported
            self._reported = dropped
        seconds = min(WINDOW_S, max(now - self._since, 1.0))
        return Summary(
            last_arrival=last_arrival,
            images=images,
            frames=published,
            arrived_hz=arrived / seconds,
            published_hz=len(frames) / seconds,
            lost_share=lost / max(lost + arrived, 1),
            age_ms=_percentiles([age for age, _ in frames]),
            frame_ms=_percentiles([sum(stages.values()) for _, stages in frames]),
            stages_ms={
                stage: float(np.median([stages[stage] for _, stages in frames if stage in stages]))
                for stage in (frames[-1][1] if frames else ())
            },
            dropped=dropped,
            dropped_lately=lately,
        )


def _percentiles(values: list[float]) -> tuple[float, float]:
    median, high = np.percentile(values or [np.nan], [50, 95])
    return float(median), float(high)
