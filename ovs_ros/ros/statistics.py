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
class Sample:
    """One published frame.

    Attributes:
        at: when it was published, monotonic seconds.
        age_ms: how old the image was then, by its stamp and the node's clock.
        stages_ms: milliseconds of each step.
    """

    at: float
    age_ms: float
    stages_ms: Mapping[str, float]


@dataclass(frozen=True)
class Summary:
    """The last WINDOW_S seconds, and drops since the start.

    Attributes:
        arrived_hz, published_hz: frames a second.
        lost_share: the share of the images that was lost on the way here, in [0, 1].
        age_ms: (median, 95th percentile) of the published images' ages; NaN without frames.
        frame_ms: (median, 95th percentile) of the frames' time in the worker.
        stages_ms: the median of each step.
        dropped: reason -> frames since the start.
        dropped_lately: reason -> frames since the last summary.
    """

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
        images: how many have come since the start.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.images = 0
        self._since = monotonic()
        self._arrivals: deque[float] = deque(maxlen=RECENT)
        self._lost: deque[float] = deque(maxlen=RECENT)
        self._samples: deque[Sample] = deque(maxlen=RECENT)
        self._dropped: Counter[str] = Counter()
        self._reported: Counter[str] = Counter()

    @property
    def last_arrival(self) -> float | None:
        """When the last image arrived, monotonic seconds."""
        with self._lock:
            return self._arrivals[-1] if self._arrivals else None

    def arrived(self) -> None:
        """An image came in."""
        with self._lock:
            self.images += 1
            self._arrivals.append(monotonic())

    def lost(self, count: int) -> None:
        """Images were lost on the way, so that the middleware never had them whole."""
        with self._lock:
            # A publisher that starts anew can make a middleware count millions.
            self._lost.extend([monotonic()] * min(count, RECENT))

    def dropped(self, reason: str) -> None:
        """An image will not be published, and why."""
        with self._lock:
            self._dropped[reason] += 1

    def published(self, sample: Sample) -> None:
        """A frame was published."""
        with self._lock:
            self._samples.append(sample)

    def summary(self) -> Summary:
        """The last seconds in figures."""
        now = monotonic()
        with self._lock:
            arrivals = [at for at in self._arrivals if now - at < WINDOW_S]
            lost = sum(now - at < WINDOW_S for at in self._lost)
            samples = [sample for sample in self._samples if now - sample.at < WINDOW_S]
            dropped = Counter(self._dropped)
            lately = dropped - self._reported
            self._reported = dropped
        seconds = min(WINDOW_S, max(now - self._since, 1.0))
        stages = list(samples[-1].stages_ms) if samples else []
        return Summary(
            arrived_hz=len(arrivals) / seconds,
            published_hz=len(samples) / seconds,
            lost_share=lost / max(lost + len(arrivals), 1),
            age_ms=_percentiles([sample.age_ms for sample in samples]),
            frame_ms=_percentiles([sum(sample.stages_ms.values()) for sample in samples]),
            stages_ms={
                stage: float(np.median([s.stages_ms[stage] for s in samples if stage in s.stages_ms]))
                for stage in stages
            },
            dropped=dropped,
            dropped_lately=lately,
        )


def _percentiles(values: list[float]) -> tuple[float, float]:
    if not values:
        return float("nan"), float("nan")
    median, high = np.percentile(values, [50, 95])
    return float(median), float(high)
