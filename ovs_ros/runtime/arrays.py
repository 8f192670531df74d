"""Arrays in npz files. They are read within limits: no code in them runs, and no bomb unpacks."""

import zipfile
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ovs_ros.runtime.files import MOST_BYTES, read_file, write_atomically


def read_arrays(path: Path, names: Iterable[str], expected: str, remedy: str) -> dict[str, NDArray]:
    """Some arrays of an npz file.

    Args:
        path: of the file.
        names: of the arrays.
        expected: what the file is, for the message, such as 'a selection head'.
        remedy: what to do if it is not, for the message.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, lacks one of them, or unpacks to more than `MOST_BYTES`.
    """
    try:
        content = read_file(path)
        with zipfile.ZipFile(BytesIO(content)) as archive:
            unpacked = sum(part.file_size for part in archive.infolist())
        if unpacked > MOST_BYTES:
            raise ValueError(f"it unpacks to {unpacked >> 20} MiB")
        with np.load(BytesIO(content), allow_pickle=False) as file:
            return {name: file[name] for name in names}
    except FileNotFoundError:
        raise
    except Exception as error:  # Damaged files raise a dozen kinds.
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"expected {expected} in {path}, got a file that cannot be read as one ({reason}); {remedy}"
        ) from error


def write_arrays(path: Path, arrays: Mapping[str, NDArray | np.generic]) -> None:
    """Write arrays to an npz file, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    data = BytesIO()
    np.savez(data, **arrays)  # type: ignore[arg-type]  # its stub has no keywords
    write_atomically(path, data.getvalue())
