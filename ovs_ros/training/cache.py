"""Encoded images in files that training maps into memory: what frozen encoders give is computed once."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

Array = NDArray[np.generic]


def write_cache(folder: Path, records: Iterable[Mapping[str, Array]], *, count: int) -> None:
    """Write records of named arrays, each array's shape the same in all of them, unless they are there.

    Args:
        folder: gets NAME.npy of shape (count, …) for each name.
        records: one an image.
        count: how many there are.
    """
    if folder.is_dir():
        return
    # A run that is killed while it writes must not leave a cache that looks complete.
    part = folder.with_name(f"{folder.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Array] = {}
    for index, record in enumerate(track(records, total=count, description=folder.name)):
        for name, value in record.items():
            if name not in arrays:
                arrays[name] = np.lib.format.open_memmap(
                    part / f"{name}.npy", "w+", value.dtype, (count, *value.shape)
                )
            arrays[name][index] = value
    for array in arrays.values():
        array.flush()  # type: ignore[attr-defined]  # a memory map
    part.rename(folder)


class Cache:
    """One folder of `write_cache`: arrays by name.

    Attributes:
        labels: the arrays label_0, label_1, …
    """

    def __init__(self, folder: Path) -> None:
        self._arrays = {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}
        self.labels = [self._arrays[name] for name in sorted(self._arrays) if name.startswith("label_")]

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __len__(self) -> int:
        return len(next(iter(self._arrays.values())))
