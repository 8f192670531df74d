"""How long a device takes for a call, by its own clock."""

from collections.abc import Callable
from time import perf_counter

import torch


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
