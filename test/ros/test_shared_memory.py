"""Which Fast DDS profile is set, and what is said about shared memory."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ovs_ros.ros import shared_memory
from ovs_ros.ros.shared_memory import LARGE, PROCESSES, SEGMENT_BYTES, SMALL, VARIABLES, fitting

CONFIG = Path(__file__).parents[2] / "config"
MIB = 2**20


def test_the_profile_fits_what_is_free():
    assert fitting(PROCESSES * 64 * MIB) == LARGE
    assert fitting(PROCESSES * 64 * MIB - 1) == SMALL
    assert PROCESSES * SEGMENT_BYTES[SMALL] <= 64 * MIB, "Docker's /dev/shm"


@pytest.mark.parametrize("name", [LARGE, SMALL])
def test_the_sizes_are_those_of_the_files(name):
    root = ElementTree.parse(CONFIG / name).getroot()
    values = {element.tag.rpartition("}")[2]: element.text for element in root.iter()}
    assert int(values["segment_size"]) == SEGMENT_BYTES[name] >= int(values["maxMessageSize"])


@pytest.mark.parametrize("where", ["AMENT_PREFIX_PATH", "virtual environment"])
@pytest.mark.parametrize(("package", "variable"), [("fastdds", VARIABLES[0]), ("fastrtps", VARIABLES[1])])
def test_the_variable_that_this_fast_dds_reads_is_set(monkeypatch, tmp_path, package, variable, where):
    (tmp_path / "share" / package).mkdir(parents=True)
    if where == "virtual environment":
        monkeypatch.delenv("AMENT_PREFIX_PATH")
        monkeypatch.setattr(sys, "prefix", str(tmp_path))
    else:
        monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    for name in VARIABLES:
        monkeypatch.setenv(name, str(CONFIG / LARGE))
    shared_memory.use_profile()
    assert [name for name in VARIABLES if name in os.environ] == [variable]
    assert os.environ[variable] in (str(CONFIG / LARGE), str(CONFIG / SMALL))


def test_a_profile_of_the_user_stays(monkeypatch):
    monkeypatch.setenv(VARIABLES[0], "/etc/robot.xml")
    monkeypatch.delenv(VARIABLES[1], raising=False)
    assert shared_memory.use_profile() is None
    assert os.environ[VARIABLES[0]] == "/etc/robot.xml" and VARIABLES[1] not in os.environ


def in_own_shm(size: str, program: str, user: str = "") -> str:
    """What a program prints that runs with a /dev/shm of its own, whose files belong to root."""
    if os.geteuid() or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("only root can mount a /dev/shm")
    mount = f"mount -t tmpfs -o size={size} tmpfs /dev/shm && touch /dev/shm/fastrtps_0a1b"
    script = f'{mount} && exec {user} "$@"'
    command = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


SAY = "from ovs_ros.ros.shared_memory import *; print(use_profile()); print(problem())"


def test_a_small_shared_memory_is_named():
    assert "/dev/shm has 64 MiB free: using 12 MiB" in in_own_shm("64m", SAY)
    assert "/dev/shm has 8 MiB free, too little for large messages" in in_own_shm("8m", SAY)
    assert "default settings Fast DDS loses" in in_own_shm("512m", SAY)


def test_shared_memory_of_another_user_is_named():
    # The interpreter may lie in root's home.
    readable = "--inh-caps +dac_read_search --ambient-caps +dac_read_search"
    unprivileged = f"setpriv --reuid 54321 --regid 54321 --clear-groups {readable}"
    said = in_own_shm("512m", SAY, unprivileged)
    assert "shared memory of the user root" in said and "user 54321 has no permission" in said


@pytest.mark.fault(
    "processes are killed with SIGKILL", "the next node removes the shared memory that they left"
)
def test_segments_of_killed_processes_are_removed(monkeypatch, tmp_path):
    monkeypatch.setattr(shared_memory, "FOLDER", tmp_path)
    for name in (
        "fastdds_dead",
        "fastrtps_dead",
        "fastdds_held",
        "fastdds_young",
        "fastdds_alone",
        "other_1",
    ):
        (tmp_path / name).write_bytes(bytes(4096))
        if name != "fastdds_alone":
            (tmp_path / f"{name}_el").touch()
        if name != "fastdds_young":
            os.utime(tmp_path / name, (0, 0))
    with (tmp_path / "fastdds_held_el").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert shared_memory.remove_abandoned() == 2 * 4096
    left = {path.name for path in tmp_path.iterdir() if not path.name.endswith("_el")}
    assert left == {"fastdds_held", "fastdds_young", "fastdds_alone", "other_1"}
    assert not (tmp_path / "fastdds_dead_el").exists()
