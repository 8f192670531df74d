"""Examples: where a category was shown, in an image file or in an image that a robot has just seen."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ovs_ros.runtime.files import read_file
from ovs_ros.runtime.images import decode, read_image
from ovs_ros.runtime.quoting import quoted
from ovs_ros.vocabulary.errors import VocabularyError

MAX_POINTS = 100
Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Seen:
    """What a model saw of an image; it stands in the image's place.

    Attributes:
        key: the same for the same image and model alone.
        model: which model it was, see `Model.identity`.
        arrays: what it saw, see `arrays_of` in steps/teaching.py.
    """

    key: str
    model: str
    arrays: Arrays = field(compare=False, repr=False)


@dataclass(frozen=True)
class Example:
    """A region of an image that shows a category, or shows what the category is not.

    Exactly one of `box`, `mask` and `points` says where. A point stands for what looks alike around it.

    Attributes:
        image: an image file, or the content of one, or what a model saw of it.
        box: x0, y0, x1, y1 in pixels; x1 and y1 are just outside.
        mask: a grey image file of the image's size, or the content of one; values above 0 are inside.
        points: x, y in pixels, one or more.
        negative: the region shows what the category is not.

    Raises:
        VocabularyError: a field is of the wrong type or out of range, or not exactly one says where.
    """

    image: Path | bytes | Seen
    box: tuple[int, ...] | None = None
    mask: Path | bytes | None = None
    points: tuple[tuple[int, ...], ...] = ()
    negative: bool = False

    def __post_init__(self) -> None:
        if sum((self.box is not None, self.mask is not None, len(self.points) > 0)) != 1:
            raise VocabularyError("expected one of box, mask and points in an example, got none or several")
        if self.box is not None:
            box = _whole_numbers(self.box, "a box x0, y0, x1, y1", 4)
            if box[0] >= box[2] or box[1] >= box[3]:
                raise VocabularyError(
                    f"expected a box x0, y0, x1, y1 with x0 < x1 and y0 < y1, got {list(box)}"
                )
            object.__setattr__(self, "box", box)
        if len(self.points) > MAX_POINTS:
            raise VocabularyError(
                f"expected at most {MAX_POINTS} points, got {len(self.points)}; draw a mask"
            )
        points = tuple(_whole_numbers(point, "points x, y", 2) for point in self.points)
        object.__setattr__(self, "points", points)

    def content(self) -> bytes:
        """The content of the image file.

        Raises:
            VocabularyError: it cannot be read, or was not kept.
        """
        if isinstance(self.image, Seen):
            raise VocabularyError(
                "expected an example with its image, got one of which only what a model saw was kept; "
                "show it again"
            )
        return self.image if isinstance(self.image, bytes) else _read(self.image, "an example's image")

    def seen(self, image: Seen) -> "Example":
        """The same region of what a model saw of the image: no files are needed any more.

        Raises:
            VocabularyError: the mask cannot be read.
        """
        mask = self.mask
        if mask is not None and not isinstance(mask, bytes):
            mask = _read(mask, "an example's mask")
        return replace(self, image=image, mask=mask)

    def read_image(self) -> NDArray[np.uint8]:
        """The image (H, W, 3) uint8 RGB.

        Raises:
            VocabularyError: it cannot be read, or was not kept.
        """
        if isinstance(self.image, bytes | Seen):
            return _decoded(self.content(), cv2.IMREAD_COLOR, "an image")[..., ::-1]
        try:
            return read_image(self.image)
        except (OSError, ValueError) as error:
            raise VocabularyError(f"expected an example's image that can be read: {error}") from error

    def region(self, height: int, width: int) -> NDArray[np.bool_]:
        """Where the category is in an image of this size: (H, W) bool; of points the pixels themselves.

        Raises:
            VocabularyError: the box or a point lies outside, or the mask has another size, is empty or cannot
                be read.
        """
        inside = np.zeros((height, width), bool)
        if self.box is not None:
            x0, y0, x1, y1 = self.box
            if x1 > width or y1 > height:
                raise VocabularyError(
                    f"expected a box inside the image of {width} x {height} pixels, got {list(self.box)}"
                )
            inside[y0:y1, x0:x1] = True
        for x, y in self.points:
            if x >= width or y >= height:
                raise VocabularyError(
                    f"expected points inside the image of {width} x {height} pixels, got {x}, {y}"
                )
            inside[y, x] = True
        if self.mask is not None:
            inside = self._read_mask() > 0
            if inside.shape != (height, width):
                raise VocabularyError(
                    f"expected a mask of the image's {width} x {height} pixels, got {inside.shape[1]} x "
                    f"{inside.shape[0]}"
                )
            if not inside.any():
                raise VocabularyError("expected a mask with values above 0, got an empty one")
        return inside

    def _read_mask(self) -> NDArray[np.uint8]:
        assert self.mask is not None
        if isinstance(self.mask, bytes):
            return _decoded(self.mask, cv2.IMREAD_GRAYSCALE, "a mask")
        data = _read(self.mask, "an example's mask")
        return _decoded(data, cv2.IMREAD_GRAYSCALE, f"a mask in {self.mask}")


def encoded(image: NDArray[np.uint8]) -> bytes:
    """An image (H, W, 3) uint8 RGB, or a mask (H, W) uint8, as the content of a PNG file."""
    bgr = image[..., ::-1] if image.ndim == 3 else image
    return cv2.imencode(".png", np.ascontiguousarray(bgr), [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def checked_examples(name: str, examples: object) -> tuple[Example, ...]:
    """The examples of a category.

    Raises:
        VocabularyError: they are no list of examples, or all of them are negative.
    """
    if not isinstance(examples, Iterable):
        raise VocabularyError(f"expected a list of examples for {quoted(name)}, got {quoted(examples)}")
    checked = tuple(examples)
    for example in checked:
        if not isinstance(example, Example):
            raise VocabularyError(f"expected examples for {quoted(name)}, got {quoted(example)} among them")
    if checked and all(example.negative for example in checked):
        raise VocabularyError(
            f"expected an example that shows {quoted(name)} beside those of what it is not, got none; add one"
        )
    return checked


def _whole_numbers(values: Iterable[object], what: str, count: int) -> tuple[int, ...]:
    numbers = tuple(values)
    whole = all(isinstance(v, Integral) and not isinstance(v, bool) and v >= 0 for v in numbers)  # type: ignore[operator]
    if len(numbers) != count or not whole:
        raise VocabularyError(f"expected {what} as whole numbers from 0, got {quoted(list(numbers))}")
    return tuple(int(v) for v in numbers)  # type: ignore[call-overload]


def _read(path: Path, what: str) -> bytes:
    try:
        return read_file(path)
    except (OSError, ValueError) as error:
        raise VocabularyError(f"expected {what} that can be read, got: {error}; check the path") from error


def _decoded(data: bytes, flag: int, what: str) -> NDArray[np.uint8]:
    try:
        image = decode(data, flag)
    except ValueError as error:
        raise VocabularyError(f"expected {what} that is not so large: {error}") from error
    if image is None:
        raise VocabularyError(f"expected {what} as PNG or JPEG, got something that cannot be read as one")
    return image
