"""A call over fixed buffers, a CUDA graph on a GPU and a plain call on a CPU, and how long calls take."""

from collections.abc import Callable
from time import perf_counter
from typing import Generic, TypeVar

import torch

from ovs_ros.runtime.torch_device import is_out_of_memory

T = TypeVar("T")
_WARM_UP = 3
"""How often a function runs before it is captured, so that libraries have chosen their kernels."""


class StaticCall(Generic[T]):
    """Calls a function that reads and writes the same buffers each time.

    On a GPU the first call captures it as a CUDA graph; every later one replays that, which costs one launch
    in place of hundreds. What it returns are the graph's own buffers then: the next call overwrites them. A
    function that cannot be captured, because it waits for the GPU midway, runs as it is.

    Args:
        function: launches work on the current stream; no argument, for its inputs are buffers that it knows.
        stream: of the device; None on a CPU.
        notice: told once if the function cannot be captured.
        capture: False for a function that is known to wait.
    """

    def __init__(
        self,
        function: Callable[[], T],
        stream: "torch.cuda.Stream | None",
        notice: Callable[[str], None],
        *,
        capture: bool = True,
    ) -> None:
        self._function = function
        self._stream = stream
        self._notice = notice
        self._eager = stream is None or not capture
        self._graph: torch.cuda.CUDAGraph | None = None
        self._result: T | None = None

    def __call__(self) -> T:
        """Run it once; on a GPU the work is launched on the stream and not waited for.

        Raises:
            RuntimeError: whatever the function raises, a full memory above all.
        """
        with torch.cuda.stream(self._stream):
            if self._eager:
                return self._function()
            if self._graph is None:
                return self._capture()
            self._graph.replay()
        assert self._result is not None
        return self._result

    def _capture(self) -> T:
        for _ in range(_WARM_UP):
            warm = self._function()
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads, which embed words, may allocate meanwhile.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                result = self._function()
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            self._notice(f"runs without a CUDA graph, which could not be captured ({error})")
            self._eager = True
            return warm
        self._graph, self._result = graph, result
        graph.replay()
        return result


def time_call(call: Callable[[], object], stream: "torch.cuda.Stream | None") -> float:
    """Milliseconds of a call: by CUDA events on a GPU, for which it waits.

    Args:
        call: launches work on the stream.
        stream: with nothing left to do; None on a CPU.
    """
    if stream is None:
        start = perf_counter()
        call()
        return (perf_counter() - start) * 1e3
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record(stream)
    call()
    after.record(stream)
    after.synchronize()
    elapsed: float = before.elapsed_time(after)
    return elapsed
