"""Folders of images with a label image for each: `image/NAME.*` beside `label/NAME.png`."""

import re
import unicodedata
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ovs_ros.runtime.files import read_file
from ovs_ros.runtime.image_size import MAX_MEGAPIXELS
from ovs_ros.runtime.images import list_images, read_image
from ovs_ros.vocabulary.yaml_io import load_class_names

IGNORED = 255
"""The value of a pixel that does not count, in label files and in `LabelledSet.read`."""
NAMELESS = "unknown"
"""A line of a fine class file whose pixels do not count."""
CLASS_FILES = {"label": "classes.txt", "fine": "fine_names.txt", "color": "colors.txt"}
"""The kinds of labels, which are their folders' names, and the class file of each."""


class WrongClassesError(Exception):
    """Labels hold values that the class file does not name, so that none of its names can be trusted."""


def labelled_pairs(folder: Path, kind: str = "label") -> list[tuple[Path, Path]]:
    """The (image, label) files of `folder`/image/* and `folder`/`kind`/*.png, by name.

    Raises:
        FileNotFoundError: a folder is missing, or the label of an image.
        ValueError: there are no images.
    """
    if not (folder / "image").is_dir() or not (folder / kind).is_dir():
        raise FileNotFoundError(f"expected the folders image and {kind} in {folder}, and they are missing")

    def stem(path: Path) -> str:
        # Zips of macOS have decomposed names, where the same names from elsewhere are composed.
        return unicodedata.normalize("NFC", path.stem)

    labels = {stem(path): path for path in (folder / kind).iterdir() if path.suffix.lower() == ".png"}
    images = {image: stem(image) for image in list_images(folder / "image")}
    missing = [name for name in images.values() if name not in labels]
    if missing:
        raise FileNotFoundError(
            f"expected labels for each image, got none for {len(missing)} of {len(images)}, as "
            f"{folder / kind / missing[0]}.png"
        )
    return [(image, labels[name]) for image, name in images.items()]


def read_mask(path: Path) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """The values of a label image: (H, W) uint8, or uint16 where its file has 16 bit.

    A palette's indices are taken, whatever its colours are; 1 bit is 0 and 1; a file with colour channels is
    taken where they are alike.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no image, or has colours.
    """
    image = _open(path)
    values: NDArray[Any] = np.array(image)
    if values.ndim == 3:
        channels = values[..., : len(image.mode.rstrip("A"))]
        if (channels == channels[..., :1]).all():
            values = channels[..., 0]
    # Pillow before 11 gives 16 bit as int32.
    if values.ndim == 3 or values.dtype.kind == "f" or (values.size and not 0 <= values.max() <= 65535):
        raise ValueError(f"expected a label image of one 8 or 16 bit channel in {path}, got {image.mode}")
    return values.astype(np.uint8 if values.itemsize == 1 else np.uint16)


@dataclass(frozen=True, eq=False)
class LabelledSet:
    """Images with the true class of each pixel.

    Attributes:
        pairs: (image, label) files.
        names: of the classes, in the order of their indices.
        indices: (256,) int16, the index in `names` of each value of a label file; IGNORED where it does not
            count, -1 where it is not allowed.
        colors: (K,) int32, 65536 R + 256 G + B of each class where label files are painted, and other colours
            do not count; None where they hold values.
    """

    pairs: list[tuple[Path, Path]]
    names: list[str]
    indices: NDArray[np.int16]
    colors: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.pairs)

    def spread(self, count: int) -> "LabelledSet":
        """The same set with at most `count` images, taken at even distances."""
        kept = np.unique(np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(int))
        return replace(self, pairs=[self.pairs[i] for i in kept])

    def read(self, number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """An image (H, W, 3) uint8 RGB, and its classes (H, W) uint8: indices in `names`, or IGNORED.

        Raises:
            OSError, ValueError: a file cannot be read, or the two differ in size.
            WrongClassesError: a label is no class.
        """
        image_file, path = self.pairs[number]
        image = read_image(image_file)
        values = read_mask(path) if self.colors is None else _read_painted(path, self.colors)
        most = int(values.max(initial=0))
        if most > IGNORED:
            raise WrongClassesError(
                f"expected labels of one channel with values up to {IGNORED} in {path}, got {most}"
            )
        outside = values[self.indices[values] < 0]
        if outside.size:
            raise WrongClassesError(
                f"expected labels below {int(np.argmin(self.indices))}, as many as the class file names, or "
                f"{IGNORED} in {path}, got {outside[0]}; does it belong to another class file?"
            )
        if values.shape != image.shape[:2]:
            raise ValueError(
                f"expected labels of shape {image.shape[:2]} in {path}, as its image has, got {values.shape}"
            )
        return image, cv2.LUT(values.astype(np.uint8), self.indices.astype(np.uint8))


def load_labelled_set(folder: Path, kind: str = "label", classes: Path | None = None) -> LabelledSet:
    """Find the files and names of a labelled set.

    Args:
        folder: holds `image/*` and `label/*.png`, `fine/*.png` or `color/*.png` of the same names.
        kind: 'label': a pixel's value is a line number, from 0, of classes.txt, and 255 does not count.
            'fine': it is a line number, from 1, of fine_names.txt; 0 and the line 'unknown' do not count.
            'color': labels are painted, and colors.txt has R G B and the name in each line, as CamVid's own
            label_colors.txt; other colours do not count.
        classes: the class file; None: it lies in the folder or above it.

    Raises:
        FileNotFoundError: the class file, a folder or a label is missing.
        ValueError: another kind, there are no images, a line of colors.txt has another form, there are more
            classes than 8 bits tell apart, or all labels are 0 or 255, where 255 does not count.
    """
    if kind not in CLASS_FILES:
        raise ValueError(f"expected labels to be one of {', '.join(CLASS_FILES)}, got {kind!r}")
    pairs = labelled_pairs(folder, kind)
    lines = load_class_names(classes if classes is not None else _find(CLASS_FILES[kind], folder))
    if len(lines) > IGNORED:
        raise ValueError(f"expected at most {IGNORED} classes, got {len(lines)}; labels have 8 bit")
    colors = None
    if kind == "color":
        lines, colors = _split_colors(lines)
    first = int(kind == "fine")
    named = np.array([not (first and line == NAMELESS) for line in lines])
    indices = np.full(256, -1, np.int16)
    indices[0 if first else IGNORED] = IGNORED
    indices[first : first + len(lines)] = np.where(named, np.cumsum(named) - 1, IGNORED)
    names = [line for line, counts in zip(lines, named, strict=True) if counts]
    if kind == "label" and len(names) > 1:
        _refuse_binary(folder, [label for _, label in pairs])
    return LabelledSet(pairs, names, indices, colors)


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(BytesIO(read_file(path))) as image:
            if image.width * image.height > MAX_MEGAPIXELS * 1e6:
                raise ValueError(
                    f"expected a label image of at most {MAX_MEGAPIXELS:g} megapixels in {path}, got one "
                    f"that claims {image.width} x {image.height} pixels; scale it down"
                )
            image.load()
            return image
    except FileNotFoundError:
        raise
    # The last two are what Pillow makes of a damaged PNG and of billions of pixels.
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"expected a label image in {path}, got something that cannot be read as one"
        ) from error


def _refuse_binary(folder: Path, labels: list[Path]) -> None:
    """Refuse masks that are all drawn with 0 and 255. Reads up to the first that is not."""
    seen: set[int] = set()
    for path in labels:
        try:
            seen |= set(np.unique(read_mask(path)).tolist())
        except ValueError:
            continue  # Who reads it tells.
        if not seen <= {0, IGNORED}:
            return
    if len(seen) == 2:
        raise ValueError(
            f"expected class indices in the labels of {folder}, got 0 and 255 alone; 255 does not count, so "
            "that these labels hold one class: write 1 for the second class"
        )


def _read_painted(path: Path, colors: NDArray[np.int32]) -> NDArray[np.uint8]:
    """A painted label file as (H, W) line numbers, IGNORED for other colours."""
    image = _open(path)
    if image.mode not in ("RGB", "RGBA", "P"):
        raise ValueError(f"expected labels of 8 bit colours in {path}, got {image.mode}")
    rgb = np.array(image.convert("RGB")).astype(np.int32)
    codes = rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
    order = np.argsort(colors)
    at = np.searchsorted(colors, codes, sorter=order).clip(max=len(colors) - 1)
    lines = order[at]
    return np.where(colors[lines] == codes, lines, IGNORED).astype(np.uint8)


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


def _find(name: str, folder: Path) -> Path:
    for place in (folder, *folder.resolve().parents):
        if (place / name).is_file():
            return place / name
    raise FileNotFoundError(
        f"expected {name} in {folder} or above it, but found none; name one with --classes"
    )
