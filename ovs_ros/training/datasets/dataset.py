"""A labelled data set: files, names, and the mapping from label values to names."""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ovs_ros.runtime.images import read_image
from ovs_ros.training.data import read_names
from ovs_ros.vocabulary.yaml_io import load_class_names

IGNORE = 65535
"""Label of pixels that do not count. Not 255: sets have up to 847 classes."""
VALUES = 65536

Read = Callable[[Path], NDArray[np.uint16]]


@dataclass(frozen=True, eq=False)
class SegmentationDataset:
    """A split of a labelled set.

    Attributes:
        name: of the set, for logs.
        names: of the classes; a label is an index here.
        pairs: (image, label) files, sorted.
        lookup: (65536,) uint16, label value in the files -> index in `names`, or IGNORE.
        palette: the label files are coloured with VOC's palette instead of holding numbers.
    """

    name: str
    names: tuple[str, ...]
    pairs: tuple[tuple[Path, Path], ...]
    lookup: NDArray[np.uint16]
    palette: bool = False

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
        """One image as RGB (H, W, 3) uint8 and its labels (H, W) uint16: indices of `names`, or IGNORE.

        Raises:
            ValueError: a file is no such image, or the two differ in size.
        """
        image_file, label_file = self.pairs[index]
        image = read_image(image_file)
        values = read_values(label_file, palette=self.palette)
        if values.shape != image.shape[:2]:
            raise ValueError(
                f"expected labels of the size of {image_file}, {image.shape[:2]}, got {values.shape} in"
                f" {label_file}; do both folders come from the same release?"
            )
        return image, self.lookup[values]


def read_values(path: Path, *, palette: bool = False) -> NDArray[np.uint16]:
    """Read a label file as (H, W) uint16.

    Args:
        path: an image of one channel, 8 or 16 bit.
        palette: where it has three, take them for colours of VOC's palette, as OpenCV gives palette files.

    Raises:
        ValueError: OpenCV cannot read it, or it has another form.
    """
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is not None and image.ndim == 2 and image.dtype in (np.uint8, np.uint16):
        return image.astype(np.uint16)
    if palette and image is not None and image.ndim == 3 and image.dtype == np.uint8:
        return palette_values(image)
    got = "a file that OpenCV cannot read" if image is None else f"{image.dtype} of shape {image.shape}"
    raise ValueError(f"expected labels of one 8 or 16 bit channel in {path}, got {got}")


def palette_values(bgr: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Indices of colours of VOC's palette, in which bit 3i + c of the index is bit 7 - i of channel c.

    Args:
        bgr: (H, W, 3 or more) uint8, as OpenCV reads colours.

    Returns:
        (H, W) uint16 from 0 to 255.
    """
    intensity = np.arange(256)
    spread = sum(((intensity >> (7 - i)) & 1) << (3 * i) for i in range(3))  # (256,)
    red, green, blue = (np.asarray(spread << channel, np.uint16) for channel in range(3))
    return ((red[bgr[..., 2]] | green[bgr[..., 1]] | blue[bgr[..., 0]]) & 255).astype(np.uint16)


def lookup_table(columns: Mapping[int, int]) -> NDArray[np.uint16]:
    """The table of `SegmentationDataset.lookup` from label values to columns; all others are ignored."""
    table = np.full(VALUES, IGNORE, np.uint16)
    for value, column in columns.items():
        table[value] = column
    return table


def known_names(file: str) -> tuple[str, ...]:
    """The names of a set that ship with the package, in the order of its labels."""
    text = files("ovs_ros.training.datasets").joinpath(f"names/{file}.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def class_names(count: int, *, shipped: str | None, given: Path | None, how: str) -> tuple[str, ...]:
    """A set's class names, one for each label.

    Args:
        count: how many the set has.
        shipped: the list in the package, if there is one.
        given: a file to read instead: one name a line, or a JSON list.
        how: where to get such a file, for the error.

    Raises:
        FileNotFoundError: there is no list.
        ValueError: the file has another number of names.
    """
    if given is None:
        if shipped is None:
            raise FileNotFoundError(f"expected a file with the {count} class names; {how}")
        return known_names(shipped)
    if not given.is_file():
        raise FileNotFoundError(f"expected the class names in {given}, but there is no such file; {how}")
    if given.suffix == ".json":
        names = [str(name).strip() for name in json.loads(given.read_text(encoding="utf-8"))]
    else:
        names = load_class_names(given)
    if len(names) != count:
        raise ValueError(f"expected {count} class names in {given}, got {len(names)}; {how}")
    return tuple(names)


def files_in(folder: Path, ending: str, *, how: str) -> dict[str, Path]:
    """A folder's files with this ending: name without the ending -> path, sorted.

    Raises:
        FileNotFoundError: no such folder, or no such file in it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"expected the folder {folder}, and it is missing; {how}")
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.name.endswith(ending))
    if not names:
        raise FileNotFoundError(f"expected files named *{ending} in {folder}, but found none; {how}")
    return {name[: -len(ending)]: folder / name for name in names}


def matched(
    images: Mapping[str, Path], labels: Mapping[str, Path], wanted: Iterable[str], *, how: str
) -> tuple[tuple[Path, Path], ...]:
    """The (image, label) pairs of the wanted names.

    Raises:
        FileNotFoundError: a name lacks its image or its label.
    """
    wanted = list(wanted)
    for kind, there in (("images", images), ("label files", labels)):
        missing = [name for name in wanted if name not in there]
        if missing:
            raise FileNotFoundError(
                f"expected {kind} for all of {len(wanted)} names, got none for {len(missing)} of them,"
                f" such as {missing[0]!r}; {how}"
            )
    return tuple((images[name], labels[name]) for name in wanted)


def paired(images: tuple[Path, str], labels: tuple[Path, str], *, how: str) -> tuple[tuple[Path, Path], ...]:
    """The (image, label) pairs of all labels in a folder; images without a label are left out.

    Args:
        images, labels: a folder each, and how its files' names end.
        how: where to get the set, for the error.

    Raises:
        FileNotFoundError: a folder or its files are missing, or a label lacks its image.
    """
    there = files_in(*images, how=how)
    wanted = files_in(*labels, how=how)
    return matched(there, wanted, wanted, how=how)


def read_list(path: Path, *, how: str) -> Sequence[str]:
    """The names in a list of a split, one a line.

    Raises:
        FileNotFoundError: there is no such list.
    """
    if not path.is_file():
        raise FileNotFoundError(f"expected the list {path}, and it is missing; {how}")
    return read_names(path)


def check_split(split: str) -> None:
    """Refuse a split other than train and val.

    Raises:
        ValueError: it is another.
    """
    if split not in ("train", "val"):
        raise ValueError(f"expected the split 'train' or 'val', got {split!r}")
