"""Image files: which ones a folder holds, and their pixels."""

from array import array
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ovs_ros.runtime.files import read_file, write_atomically
from ovs_ros.runtime.image_size import MAX_MEGAPIXELS, image_size

# fmt: off
IMAGE_SUFFIXES = frozenset({
    ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm",
    ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp",
})
# fmt: on
"""Files with these endings, in any case, are taken for images. OpenCV may lack a reader for some of them."""
UNREADABLE = frozenset({".avif", ".heic", ".heif", ".gif"})
"""Endings for which OpenCV often has no reader."""


def list_images(folder: Path) -> list[Path]:
    """The image files of a folder, by name. Hidden files, such as macOS's '._photo.jpg', are none.

    Raises:
        ValueError: there are none.
    """
    images = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not images:
        raise ValueError(
            f"expected images in {folder}, got none; known are {', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return images


def output_names(images: list[Path]) -> list[str]:
    """Different names for the results of images: the stem, or the whole name where stems are alike."""
    stems = [path.stem for path in images]
    return [path.stem if stems.count(path.stem) == 1 else path.name for path in images]


def decode(
    data: "bytes | NDArray[np.uint8] | array[int]", flags: int, max_megapixels: float = MAX_MEGAPIXELS
) -> NDArray | None:
    """The pixels of an image file's content, as OpenCV gives them; None: it is no image that OpenCV reads.

    Args:
        data: the content.
        flags: of `cv2.imdecode`.
        max_megapixels: an image whose header claims more is not decoded.

    Raises:
        ValueError: the header claims more.
    """
    content = np.frombuffer(data, np.uint8)
    size = image_size(content.data)
    if size is None:
        return None
    if size.megapixels > max_megapixels:
        raise ValueError(
            f"expected an image of at most {max_megapixels:g} megapixels, got one that claims {size.width} x "
            f"{size.height} pixels; scale it down, or raise max_megapixels"
        )
    try:
        return cv2.imdecode(content, flags)
    except cv2.error:
        return None


def read_image(path: Path, max_megapixels: float = MAX_MEGAPIXELS) -> NDArray[np.uint8]:
    """An image file as (H, W, 3) uint8 RGB. 16 bit is scaled by 1/257, floating point from 0 to 1 by 255.

    Raises:
        OSError: there is no such file, or it is a pipe or a device.
        ValueError: it is no image that OpenCV reads, or it is too large.
    """
    data = read_file(path)
    try:
        image = decode(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH, max_megapixels)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if image is None:
        hint = "convert it to PNG or JPEG" if path.suffix.lower() in UNREADABLE else "the file is damaged"
        raise ValueError(
            f"expected an image in {path}, got something that cannot be read as one; {hint}, or leave it out"
        )
    if image.dtype == np.uint16:
        image = np.rint(image / 257.0).astype(np.uint8)
    elif image.dtype != np.uint8:
        if not np.isfinite(image).all() or image.min() < 0 or image.max() > 1:
            raise ValueError(
                f"expected a floating-point image with values from 0 to 1 in {path}, got "
                f"{image.min():g} to {image.max():g}; convert it to 8 bit"
            )
        image = np.rint(image * 255.0).astype(np.uint8)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def write_image(path: Path, image: NDArray) -> None:
    """Write (H, W) uint8 or uint16, or (H, W, 3) uint8 RGB, in the format of the path's suffix.

    Raises:
        OSError: the file cannot be written.
    """
    done, data = cv2.imencode(
        path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    )
    if not done:
        raise OSError(f"expected to write an image of shape {image.shape} to {path}, and its encoder failed")
    write_atomically(path, data.tobytes())
