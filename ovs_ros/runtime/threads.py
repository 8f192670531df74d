"""How many threads of the CPU this process computes with.

One number for the process, because OpenCV, torch and BLAS count their threads by process. ONNX Runtime counts
them by session, and takes the number that holds when a session opens. Without a number of its own, ONNX
Runtime takes one thread for each core of the host, also in a container that may use two of them.
"""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import cv2
from threadpoolctl import ThreadpoolController

PROC, CGROUPS, CPUS = Path("/proc"), Path("/sys/fs/cgroup"), Path("/sys/devices/system/cpu")
_chosen = 0
_LATER = 10
"""The nice value, 0 to 19, of threads that let others go first: 10 has a tenth of the weight of 0."""


def use_threads(threads: int) -> None:
    """Set the number of threads for the whole process.

    ONNX Runtime's sessions that are open already keep theirs.

    Args:
        threads: how many; 0: `usable_cores()`.

    Raises:
        ValueError: a negative number.
    """
    if threads < 0:
        raise ValueError(f"expected threads of at least 1, or 0 for the usable cores, got {threads}")
    global _chosen
    _chosen = threads
    count = thread_count()
    cv2.setNumThreads(count)
    # The package tokenizers would start threads of its own, for milliseconds.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    ThreadpoolController().limit(limits=count, user_api="blas")
    limit_torch()


def thread_count() -> int:
    """How many threads this process computes with."""
    return _chosen or usable_cores()


def let_others_go_first() -> None:
    """Give this thread, and those that it starts from now on, a tenth of a core where others want all of it.

    For work that may wait, beside frames. It holds as long as the thread lives. Linux alone counts priorities
    by thread; elsewhere it does nothing.
    """
    if sys.platform == "linux":
        with suppress(OSError):  # Some sandboxes allow no change.
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, max(os.getpriority(os.PRIO_PROCESS, thread), _LATER))


def limit_torch() -> None:
    """Hand the number to torch if it is imported; for those who import it after `use_threads`."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(thread_count())


def usable_cores(proc: Path = PROC, cgroups: Path = CGROUPS, cpus: Path = CPUS) -> int:
    """How many cores this process may use, at least 1.

    The least of: the cores of its CPU affinity (hardware threads of one core count once), the CPU quota of
    its control groups (containers), and OMP_NUM_THREADS where it is set.

    Args:
        proc, cgroups, cpus: where Linux lists them.
    """
    limits = [_cores(cpus), *_quotas(proc, cgroups)]
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if asked.isdecimal():
        limits.append(int(asked))
    return max(1, int(min(limits)))


def _cores(cpus: Path) -> int:
    """The cores of this process's affinity."""
    if not hasattr(os, "sched_getaffinity"):  # macOS
        return os.cpu_count() or 1
    mine = os.sched_getaffinity(0)
    siblings = (cpus / f"cpu{cpu}" / "topology" / "thread_siblings_list" for cpu in mine)
    return len({_read(path) or path for path in siblings})


def _quotas(proc: Path, cgroups: Path) -> Iterator[float]:
    """The CPU quotas, in cores, of this process's control groups and those above them."""
    for line in (_read(proc / "self" / "cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        root, files = cgroups, ["cpu.max"]
        if controllers:  # Version 1 has a tree for each controller.
            if "cpu" not in controllers.split(","):
                continue
            root, files = cgroups / "cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        group = root / path.strip("/")
        # In a container the path may be the host's, which is not there: its own group is mounted as the root.
        while True:
            words = " ".join(_read(group / file) or "" for file in files).split()
            if len(words) == 2 and words[0].isdecimal() and int(words[1]) > 0:
                yield int(words[0]) / int(words[1])
            if group == root:
                break
            group = group.parent


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None
