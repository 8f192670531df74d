"""Files: their digests, and writing them whole or not at all."""

import hashlib
import os
from pathlib import Path
from threading import get_ident


def is_file(path: Path) -> bool:
    """Whether there is a file; also for names from outside that no file can have, such as overlong ones."""
    try:
        return path.is_file()
    except OSError:
        return False


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or, if the process or the power ends midway, as it was before.

    Raises:
        OSError: the file cannot be written.
    """
    # A name of its own for each thread; unlike those of `tempfile`, with the user's usual permissions.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{get_ident()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
