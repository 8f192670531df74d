"""How long the stages of a frame take."""

from dataclasses import dataclass, field
from time import perf_counter


@dataclass
class StageClock:
    """Books the time between calls under names.

    Attributes:
        stages_ms: milliseconds by stage; a stage that comes twice has the sum.
    """

    stages_ms: dict[str, float] = field(default_factory=dict)
    _since: float = field(default_factory=perf_counter)

    def stage(self, name: str) -> None:
        """Book the time since the last call, or since the clock was made, under this name."""
        now = perf_counter()
        self.stages_ms[name] = self.stages_ms.get(name, 0.0) + (now - self._since) * 1e3
        self._since = now

    def add(self, stages_ms: dict[str, float]) -> None:
        """Take over stages that another clock measured, up to now."""
        for name, ms in stages_ms.items():
            self.stages_ms[name] = self.stages_ms.get(name, 0.0) + ms
        self._since = perf_counter()
