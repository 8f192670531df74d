"""Large messages between processes of one machine: which Fast DDS profile fits, and why messages are lost."""

import fcntl
import os
import pwd
import shutil
import sys
from pathlib import Path
from time import time

from ament_index_python.packages import get_package_share_directory

FOLDER = Path("/dev/shm")
VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
"""They name the profile: the first for Fast DDS 3 (Kilted), the second for Fast DDS 2 (Humble, Jazzy)."""
LARGE, SMALL = "fastdds_large_data.xml", "fastdds_small_memory.xml"
SEGMENT_BYTES = {LARGE: 64 * 2**20, SMALL: 12 * 2**20}
"""The shared memory that a profile takes for each process."""
PROCESSES = 4
"""How many processes need room: a camera's driver, the node and two subscribers."""
LEAST_AGE_S = 60.0
"""Younger segments are left alone: their process may not have locked them yet."""


def fitting(free: int) -> str:
    """The name of the shipped profile that fits into `free` bytes of shared memory."""
    return LARGE if free >= PROCESSES * SEGMENT_BYTES[LARGE] else SMALL


def profile() -> Path:
    """The shipped profile that fits into what /dev/shm has free."""
    return Path(get_package_share_directory("ovs_ros")) / "config" / fitting(_free())


def use_profile() -> str | None:
    """Set the profile that fits, for this process and its children. What the user has set stays.

    Call it before rclpy.init. A shipped profile that is set counts as set by us.

    Returns:
        What to log, if there is little shared memory.
    """
    given = next((Path(os.environ[name]) for name in VARIABLES if os.environ.get(name)), None)
    if given is None and os.environ.get("FASTDDS_BUILTIN_TRANSPORTS"):
        return None
    if given is not None and given.name not in SEGMENT_BYTES:
        return None
    chosen = profile() if given is None else given.with_name(fitting(_free()))
    # One of them: Kilted reads both and complains of a profile that comes twice.
    wanted, other = VARIABLES if _fast_dds_3() else VARIABLES[::-1]
    os.environ.pop(other, None)
    os.environ[wanted] = str(chosen)
    if chosen.name == LARGE:
        return None
    return (
        f"{_shortage()}: using {SEGMENT_BYTES[SMALL] >> 20} MiB of shared memory for this process instead of "
        f"{SEGMENT_BYTES[LARGE] >> 20}. Images above 8 MiB may get lost. In a container, start it with "
        "--shm-size=1g or --ipc=host"
    )


def remove_abandoned() -> int:
    """Remove the Fast DDS segments of this user whose processes were killed: nobody else does.

    Returns:
        How many bytes that freed.
    """
    freed = 0
    for kind in ("fastrtps", "fastdds"):
        for lock in FOLDER.glob(f"{kind}_*_el"):
            segment = lock.with_name(lock.name.removesuffix("_el"))
            try:
                status = segment.stat()
                if (
                    status.st_uid != os.geteuid()
                    or time() - status.st_mtime < LEAST_AGE_S
                    or _is_locked(lock)
                ):
                    continue
                segment.unlink()
                lock.unlink()
            except OSError:  # It is gone by now.
                continue
            freed += status.st_blocks * 512
    return freed


def _is_locked(path: Path) -> bool:
    """Whether a process lives that holds the lock of its segment, as each does from its start to its end."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def problem() -> str:
    """Why large messages may not arrive at this process, and what to do."""
    others = _segments_of_others()
    if others:
        return (
            f"{FOLDER} holds shared memory of the user {', '.join(sorted(others))} that this process's user "
            f"{_user(os.geteuid())} has no permission to open: start the camera and this node as the same "
            "user, or set FASTDDS_BUILTIN_TRANSPORTS=UDPv4 for both instead of a profile and use reliable QoS"
        )
    if _free() < SEGMENT_BYTES[SMALL]:
        return (
            f"{_shortage()}, too little for large messages: in a container, start it with --shm-size=1g or "
            "--ipc=host; elsewhere delete what crashed processes have left there (fastrtps_*, fastdds_*)"
        )
    return (
        "With its default settings Fast DDS loses large best-effort images between processes. Start the "
        f"camera too with {' and '.join(VARIABLES)} set to …/share/ovs_ros/config/{LARGE}, or ask for "
        "reliable transport with the parameter qos_overrides.<topic>.subscription.reliability"
    )


def _fast_dds_3() -> bool:
    """Whether this ROS has Fast DDS 3, whose package is named fastdds; it was fastrtps."""
    # ROS from PyPI lies in the virtual environment.
    for prefix in (*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix):
        for package in ("fastrtps", "fastdds"):
            if (Path(prefix) / "share" / package).is_dir():
                return package == "fastdds"
    return False


def _segments_of_others() -> set[str]:
    """The users whose Fast DDS segments this process cannot open."""
    owners = set()
    for pattern in ("fastrtps_*", "fastdds_*"):
        for path in FOLDER.glob(pattern):
            try:
                if not os.access(path, os.R_OK | os.W_OK):
                    owners.add(_user(path.stat().st_uid))
            except OSError:  # It is gone by now.
                continue
    return owners


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _free() -> int:
    try:
        return shutil.disk_usage(FOLDER).free
    except OSError:
        return 0


def _shortage() -> str:
    return f"{FOLDER} has {_free() / 2**20:.0f} MiB free"
