"""How many threads are taken, where affinity, containers and users say how many."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import cv2
import pytest

from ovs_ros.encoders.clip.imports import import_open_clip
from ovs_ros.runtime.threads import let_others_go_first, thread_count, usable_cores, use_threads


@pytest.fixture(autouse=True)
def kept(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    yield
    use_threads(0)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Eight hardware threads, two to a core: the folders proc, cgroups and cpus, and the affinity."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for cpu in range(8):
        topology = tmp_path / "cpus" / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "cgroups").mkdir()
    return tmp_path


def cores(machine):
    return usable_cores(machine / "proc", machine / "cgroups", machine / "cpus")


def group(machine, line, files):
    """Put the process into a control group."""
    (machine / "proc" / "self" / "cgroup").write_text(f"11:memory:/elsewhere\n{line}\n")
    for path, text in files.items():
        (machine / "cgroups" / path).parent.mkdir(parents=True, exist_ok=True)
        (machine / "cgroups" / path).write_text(text + "\n")


def test_hardware_threads_of_one_core_count_once(machine, monkeypatch):
    assert cores(machine) == 4
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 4})
    assert cores(machine) == 2


def test_machines_that_tell_nothing_of_cores_have_as_many_as_cpus(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    assert usable_cores(tmp_path, tmp_path, tmp_path) == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert usable_cores(tmp_path, tmp_path, tmp_path) == 5


@pytest.mark.parametrize(
    ("line", "files", "expected"),
    [
        ("0::/", {"cpu.max": "200000 100000"}, 2),
        ("0::/", {"cpu.max": "max 100000"}, 4),
        ("0::/", {"cpu.max": "150000 100000"}, 1),
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/", {"cpu.max": "900000 100000"}, 4),
        ("0::/", {"cpu.max": "nonsense"}, 4),
        ("0::/pod/box", {"pod/cpu.max": "300000 100000", "pod/box/cpu.max": "max 100000"}, 3),
        ("0::/pod/box", {"pod/cpu.max": "300000 100000", "pod/box/cpu.max": "200000 100000"}, 2),
        ("0::/docker/of-the-host", {"cpu.max": "200000 100000"}, 2),
        (
            "4:cpu,cpuacct:/a",
            {"cpu/a/cpu.cfs_quota_us": "300000", "cpu/a/cpu.cfs_period_us": "100000"},
            3,
        ),
        ("4:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ("4:cpuset:/", {"cpu.max": "100000 100000"}, 4),
    ],
)
def test_a_containers_quota_counts(machine, line, files, expected):
    group(machine, line, files)
    assert cores(machine) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("3", 3), ("2,4", 2), ("9", 4), ("", 4), ("many", 4), ("0", 1)]
)
def test_omp_num_threads_counts(machine, monkeypatch, text, expected):
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert cores(machine) == expected


def test_a_number_holds_for_opencv_and_for_sessions_that_open():
    use_threads(1)
    assert thread_count() == cv2.getNumThreads() == 1
    use_threads(0)
    assert thread_count() == usable_cores()
    with pytest.raises(ValueError, match="expected threads of at least 1, or 0 for the usable cores, got -1"):
        use_threads(-1)


def test_torch_takes_the_number_before_and_after_its_import():
    torch = pytest.importorskip("torch")
    use_threads(1)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(2)  # As if it had been imported only now.
    import_open_clip()
    assert torch.get_num_threads() == 1


COUNT = """
import os, sys, threading
import cv2  # Its own library starts a thread when it is imported.
import numpy as np
import ovs_ros
from ovs_ros.vocabulary.vocabulary import Vocabulary
def count():  # Without Python's own: a timer closes the text encoder.
    return len(os.listdir("/proc/self/task")) - threading.active_count()
before = count()
segmenter = ovs_ros.load("stream", threads=int(sys.argv[1]))
segmenter.segment(np.zeros((48, 64, 3), np.uint8), segmenter.embed(Vocabulary.from_names(["dog"])))
print(count() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_one_thread_means_that_a_model_starts_none(tmp_path):
    """Four sessions with two threads each would start four threads beside the one that calls them."""

    def started(threads):
        command = [sys.executable, "-c", COUNT, str(threads)]
        environment = {**os.environ, "OVS_ROS_CACHE": str(tmp_path)}
        return int(
            subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        )

    assert started(1) == 0
    assert started(3) >= 2


@pytest.mark.skipif(sys.platform != "linux", reason="priorities of threads are Linux's")
def test_others_go_before_a_thread_that_lets_them_and_before_those_that_it_starts():
    def nice():
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def nice_of_a_new_thread():
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(nice).result()

    before = nice()
    with ThreadPoolExecutor(1, initializer=let_others_go_first) as thread:
        assert thread.submit(nice).result() == thread.submit(nice_of_a_new_thread).result() == max(before, 10)
    assert nice() == before
