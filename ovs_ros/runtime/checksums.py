"""The SHA-256 of each file of a model's folder, in the form of `sha256sum`, checked before a model is opened.

`python -m ovs_ros.runtime.checksums FOLDER` writes them anew, for somebody who changed a file on purpose.
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from ovs_ros.runtime.files import file_digest, read_file, write_atomically
from ovs_ros.runtime.quoting import quoted

FILE = "checksums.txt"
_MOST_BYTES = 1 << 20
_LINE = re.compile(r"([0-9a-f]{64})  ([\w.+-]+)")
_REMEDY = "reinstall ovs_ros, or copy the folder again as a whole"


def write_checksums(folder: Path, names: Iterable[str]) -> None:
    """Write the checksums of those of these files that are in a folder."""
    there = [name for name in sorted(names) if (folder / name).is_file()]
    text = "".join(f"{file_digest(folder / name)}  {name}\n" for name in there)
    write_atomically(folder / FILE, text.encode())


def update_checksum(path: Path) -> None:
    """Write the checksum of a file anew, if its folder has one of it."""
    if (path.parent / FILE).is_file():
        listed = _read(path.parent / FILE)
        if path.name in listed:
            write_checksums(path.parent, listed)


def check_files(folder: Path, must: Iterable[str] = ()) -> None:
    """Check the files of a folder that has checksums. A folder without, as older runs are, is not checked.

    Args:
        folder: of a model.
        must: names whose checksums have to be there, if the files are.

    Raises:
        ValueError: a file is not the one that was written, or the checksums are damaged.
        FileNotFoundError: a file is missing.
    """
    path = folder / FILE
    if not path.exists():
        return
    listed = _read(path)
    for name in must:
        if name not in listed and (folder / name).is_file():
            raise ValueError(f"expected a checksum of {name} in {path}, got none; {_REMEDY}")
    for name, digest in listed.items():
        if not (folder / name).is_file():
            raise FileNotFoundError(f"expected {folder / name}, which {FILE} lists, found none; {_REMEDY}")
        if file_digest(folder / name) != digest:
            raise ValueError(
                f"expected {folder / name} as it was published, got a file with another SHA-256; {_REMEDY}. "
                f"If you changed it on purpose, run 'python -m {__name__} {folder}'"
            )


def _read(path: Path) -> dict[str, str]:
    """Name -> digest."""
    listed = {}
    for line in read_file(path, _MOST_BYTES).decode(errors="replace").splitlines():
        found = _LINE.fullmatch(line)
        if found is None:
            raise ValueError(
                f"expected lines of a SHA-256 and a name in {path}, got {quoted(line)}; {_REMEDY}"
            )
        listed[found[2]] = found[1]
    return listed


def main(folder: Path) -> None:
    """Write the checksums of all files in a folder but its cards and hidden ones."""
    names = (path.name for path in folder.iterdir() if path.is_file() and path.suffix != ".md")
    write_checksums(folder, (name for name in names if name != FILE and not name.startswith(".")))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
