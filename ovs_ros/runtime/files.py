"""Files: reading them within limits, their digests, and writing them whole or not at all."""

import hashlib
import os
import stat
import time
from contextlib import suppress
from pathlib import Path
from threading import get_ident
from typing import Any

MOST_BYTES = 256 << 20
"""Of a file that is read as a whole, unless the reader says otherwise."""
_SETTLED_S = 2.0
"""A file that was written this long ago keeps its digest, as long as its size and time stay."""
_hashes: dict[tuple[object, ...], Any] = {}


def is_file(path: Path) -> bool:
    """Whether there is a file; also for names from outside that no file can have, such as overlong ones."""
    try:
        return path.is_file()
    except OSError:
        return False


def read_file(path: Path, most: int = MOST_BYTES) -> bytes:
    """The content of a regular file. A pipe or a device is refused and not waited for.

    Args:
        path: of the file; links are followed.
        most: how many bytes it may have.

    Raises:
        OSError: it is not there, or not a regular file.
        ValueError: it has more bytes.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(f"expected a regular file at {path}, got a folder, a pipe or a device")
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"expected at most {_size(most)} in {path}, got more; is it the right file?")
    return content


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    return str(_hashed(path).hexdigest())


def joint_digest(paths: list[Path]) -> str:
    """SHA-256 of several files, one after the other, hexadecimal."""
    joint = _hashed(paths[0]).copy()
    for path in paths[1:]:
        _hash_into(joint, path)
    return str(joint.hexdigest())


def _hashed(path: Path) -> Any:
    """The hash object of a file. It is kept: the parts of a model ask for the same files."""
    found = path.stat()
    key = path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
    if key in _hashes:
        return _hashes[key]
    digest = hashlib.sha256()
    _hash_into(digest, path)
    # A file's time may stand still while it is written twice.
    if abs(time.time() - found.st_ctime) > _SETTLED_S:
        _hashes[key] = digest
    return digest


def _hash_into(digest: Any, path: Path) -> None:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >> 20 else f"{count >> 10} KiB"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or, if the process or the power ends midway, as it was before.

    A link in its place is replaced, and what it leads to stays as it is.

    Raises:
        OSError: the file cannot be written, or a folder, a pipe or a device is in its place.
    """
    if path.exists() and not path.is_file():
        raise OSError(f"expected a path for a file, got {path}, which is a folder, a pipe or a device")
    # A name of its own for each thread; unlike those of `tempfile`, with the user's usual permissions.
    temporary = path.with_name(f".{path.name[:100]}.{os.getpid()}.{get_ident()}")
    try:
        temporary.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC  # No link of that name is followed.
        with open(os.open(temporary, flags, 0o666), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
