"""A folder of images with label images, as `ovs evaluate` reads it."""

import re
import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ovs_ros.runtime.images import list_images
from ovs_ros.vocabulary.yaml_io import load_class_names

IGNORED = 255
"""The value of a pixel that does not count, in label files and in `LabelledSet.read`."""
NAMELESS = "unknown"
"""A line of a fine class file whose pixels do not count."""

LabelKind = Literal["label", "fine", "color"]


@dataclass(frozen=True)
class _Form:
    """How a folder of label images is written: the class file beside it, and the value of its first line."""

    classes_file: str
    first: int


_FORMS: dict[str, _Form] = {
    "label": _Form("classes.txt", 0),
    "fine": _Form("fine_names.txt", 1),
    "color": _Form("colors.txt", 0),
}


@dataclass(frozen=True, eq=False)
class LabelledSet:
    """Images with the true class of each pixel.

    Attributes:
        images, labels: files, pair by pair.
        names: of the classes, in the order of their indices.
        indices: (256,) int16, the index in `names` of each value of a label file; IGNORED where it does not
            count, -1 where it is not allowed.
        colors: (K,) int32, 65536 R + 256 G + B of each class where label files are painted, and other colours
            do not count; None where they hold values.
    """

    images: list[Path]
    labels: list[Path]
    names: list[str]
    indices: NDArray[np.int16]
    colors: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.images)

    def spread(self, count: int) -> "LabelledSet":
        """The same set with at most `count` images, taken at even distances."""
        kept = np.unique(np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(int))
        return replace(self, images=[self.images[i] for i in kept], labels=[self.labels[i] for i in kept])

    def read(self, number: int, size: tuple[int, ...]) -> NDArray[np.uint8]:
        """The classes of an image's pixels: (H, W) uint8 indices in `names`, IGNORED where none counts.

        Args:
            number: which image.
            size: (H, W) that it has.

        Raises:
            ValueError: the file is no 8 bit label image of that size, or has values that are no class.
        """
        path = self.labels[number]
        depth = 2 if self.colors is None else 3
        values = _read_mask(path, indexed=depth == 2)
        if values is not None and values.ndim == 3 and values.dtype == np.uint16:
            values = (values >> 8).astype(np.uint8)  # as some tools write colours of 8 bit
        if values is None or values.ndim != depth or values.dtype != np.uint8:
            got = "no image" if values is None else f"{values.dtype} of shape {values.shape}"
            form = "one channel with values up to 255" if depth == 2 else "8 bit colours"
            raise ValueError(f"expected labels of {form} in {path}, got {got}")
        if self.colors is not None:
            values = _values_of_colors(values, self.colors)
        outside = values[self.indices[values] < 0]
        if outside.size:
            raise ValueError(
                f"expected labels below {int(np.argmin(self.indices))}, as many as the class file names, or "
                f"{IGNORED} in {path}, got {outside[0]}; does it belong to another class file?"
            )
        if values.shape != size:
            raise ValueError(
                f"expected labels of shape {size} in {path}, as its image has, got {values.shape}"
            )
        return cv2.LUT(values, self.indices.astype(np.uint8))


def load_labelled_set(folder: Path, kind: LabelKind = "label", classes: Path | None = None) -> LabelledSet:
    """Find the files and names of a labelled set.

    Args:
        folder: holds `image/*` and `label/*.png`, `fine/*.png` or `color/*.png` of the same names.
        kind: 'label': a pixel's value is a line number, from 0, of classes.txt, and 255 does not count.
            'fine': it is a line number, from 1, of fine_names.txt; 0 and the line 'unknown' do not count.
            'color': labels are painted, and colors.txt has R G B and the name in each line, as CamVid's own
            label_colors.txt; other colours do not count.
        classes: the class file; None: it lies in the folder or above it.

    Raises:
        ValueError: something is missing, a line of colors.txt has another form, or there are more classes
            than 8 bits tell apart.
    """
    if kind not in _FORMS:
        raise ValueError(f"expected labels to be one of {', '.join(_FORMS)}, got {kind!r}")
    form = _FORMS[kind]
    if not (folder / "image").is_dir() or not (folder / kind).is_dir():
        raise ValueError(f"expected the folders image and {kind} in {folder}, and they are missing")
    images = list_images(folder / "image")
    # Zips of macOS have decomposed names, and a label of the same name may come from elsewhere.
    known = {unicodedata.normalize("NFC", path.name): path for path in (folder / kind).iterdir()}
    names_of_labels = [unicodedata.normalize("NFC", f"{image.stem}.png") for image in images]
    labels = [known.get(name, folder / kind / name) for name in names_of_labels]
    missing = [label for label in labels if not label.is_file()]
    if missing:
        raise ValueError(
            f"expected labels for each image, got none for {len(missing)} of {len(images)}, as {missing[0]}"
        )
    lines = load_class_names(classes if classes is not None else _find(form.classes_file, folder))
    if len(lines) > IGNORED:
        raise ValueError(f"expected at most {IGNORED} classes, got {len(lines)}; labels have 8 bit")
    colors = None
    if kind == "color":
        lines, colors = _split_colors(lines)
    indices = np.full(256, -1, np.int16)
    indices[: form.first] = IGNORED
    if not form.first:
        indices[IGNORED] = IGNORED
    names: list[str] = []
    for value, line in enumerate(lines, form.first):
        if form.first and line == NAMELESS:
            indices[value] = IGNORED
        else:
            indices[value] = len(names)
            names.append(line)
    return LabelledSet(images, labels, names, indices, colors)


def _read_mask(path: Path, *, indexed: bool) -> NDArray | None:
    """A label file's pixels, None if it is no image.

    Args:
        path: the file.
        indexed: pixels are class indices: those of a palette or of 1 bit are taken as they are written, and
            16 bit is taken where all values fit into 8.
    """
    if indexed:
        try:
            with Image.open(path) as image:
                if image.mode in ("P", "1"):
                    return np.array(image).astype(np.uint8)
        except UnidentifiedImageError:
            return None
    values = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED) if path.stat().st_size else None
    if indexed and values is not None and values.ndim == 2 and values.dtype == np.uint16:
        values = values.astype(np.uint8) if not values.size or values.max() <= IGNORED else values
    return values


def _split_colors(lines: list[str]) -> tuple[list[str], NDArray[np.int32]]:
    names, colors = [], []
    for line in lines:
        match = re.fullmatch(r"(\d+)\s+(\d+)\s+(\d+)\s+(\S.*)", line)
        rgb = [int(group) for group in match.groups()[:3]] if match else []
        if not match or max(rgb) > 255:
            raise ValueError(f"expected R G B from 0 to 255 and a name in a line of colours, got {line!r}")
        names.append(match[4])
        colors.append(rgb[0] << 16 | rgb[1] << 8 | rgb[2])
    if len(set(colors)) < len(colors):
        raise ValueError("expected a colour of its own for each class, got some twice")
    return names, np.array(colors, np.int32)


def _values_of_colors(bgr: NDArray[np.uint8], colors: NDArray[np.int32]) -> NDArray[np.uint8]:
    """(H, W, 3 or 4) painted labels to (H, W) line numbers, IGNORED for other colours."""
    codes = bgr[..., 2].astype(np.int32) << 16 | bgr[..., 1].astype(np.int32) << 8 | bgr[..., 0]
    order = np.argsort(colors)
    at = np.searchsorted(colors, codes, sorter=order).clip(max=len(colors) - 1)
    lines = order[at]
    return np.where(colors[lines] == codes, lines, IGNORED).astype(np.uint8)


def _find(name: str, folder: Path) -> Path:
    for place in (folder, *folder.resolve().parents):
        if (place / name).is_file():
            return place / name
    raise ValueError(f"expected {name} in {folder} or above it, but found none; name one with --classes")
