"""Readers of the training sets' folders.

A labelled set is `SET/SPLIT/image/NAME.*` and `SET/SPLIT/label/NAME.png` (uint8 line numbers of
`SET/classes.txt`, 255 ignored), optionally with `SET/SPLIT/fine/NAME.png` (uint8 line numbers, from 1, of
`SET/fine_names.txt`, 0 unknown).
"""

import csv
import re
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

IGNORE = 65535
"""Label of pixels that do not count. Not 255, as in files of 8 bits: sets have up to 847 classes."""
UNLABELLED = 255
"""The same in files and caches of 8 bits."""

Label = TypeVar("Label", np.uint8, np.uint16)


def resize_labels(labels: NDArray[Label], size: tuple[int, int]) -> NDArray[Label]:
    """Labels at another resolution: those under the middle of each new pixel.

    OpenCV's usual nearest neighbour takes the pixel under the upper left corner. Shrinking with it shifts all
    labels half a pixel to the right and down, and a model trained on them inherits the shift.

    Args:
        labels: (H, W) uint8 or uint16.
        size: (width, height), as OpenCV has it.
    """
    return cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT)


def read_names(path: Path) -> list[str]:
    """Read names, one a line."""
    return [line.strip() for line in path.read_text().splitlines() if line.strip()]


def caption_nouns() -> list[str]:
    """The visible nouns that captions are searched for."""
    return sorted(set(files("ovs_ros.training").joinpath("nouns.txt").read_text().split()))


def read_captions(folder: Path) -> dict[str, list[str]]:
    """Read `captions.tsv` (file, caption): file -> its captions."""
    captions: dict[str, list[str]] = {}
    with (folder / "captions.tsv").open(newline="") as lines:
        for name, caption in csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
            captions.setdefault(name, []).append(caption.strip(" ."))
    return captions


def nouns_in(captions: list[str], nouns: list[str], *, least: int = 1) -> list[int]:
    """Indices of the nouns that at least `least` of the captions name, in the singular or the plural."""
    counts: Counter[str] = Counter()
    for caption in captions:
        words = set(re.findall("[a-z]+", caption.lower()))
        counts.update(
            words | {w[:-1] for w in words if w.endswith("s")} | {w[:-2] for w in words if w.endswith("es")}
        )
    return [i for i, noun in enumerate(nouns) if counts[noun] >= least]


def read_image_names(folder: Path) -> list[tuple[Path, str]]:
    """Read `names.tsv` (file, class name; a first line "file", "name" is no image) of named images."""
    with (folder / "names.tsv").open(newline="") as lines:
        return [
            (folder / "image" / name, label)
            for name, label in csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
            if (name, label) != ("file", "name")
        ]
