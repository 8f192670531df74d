"""Views of labelled images: random crops, flips and colours, the labels following their pixels."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ovs_ros.encoders.patches import IMAGENET_MEAN_RGB
from ovs_ros.evaluation.labelled_folder import labelled_pairs, read_mask
from ovs_ros.runtime.images import read_image
from ovs_ros.training.data import IGNORE, resize_labels

SCALES = (0.5, 2.0)
"""How large `random_view` makes an image, relative to the scale at which it just covers the crop."""


@dataclass(frozen=True)
class View:
    """One look at an image: RGB (H, W, 3) uint8 and its label maps (H, W) uint8, all of one size."""

    image: NDArray[np.uint8]
    labels: tuple[NDArray[np.uint8], ...]

    def window(self, rows: slice, columns: slice) -> "View":
        """A part of it."""
        parts = (np.ascontiguousarray(a[rows, columns]) for a in (self.image, *self.labels))
        image, *labels = parts
        return View(image, tuple(labels))

    def flipped(self) -> "View":
        """It turned over."""
        return self.window(slice(None), slice(None, None, -1))


def labelled_views(split: Path, change: Callable[[View], View] = lambda view: view) -> Iterator[View]:
    """A split's images with their class labels and fine labels (0 where the set has none), each changed."""
    pairs = labelled_pairs(split)
    fine = labelled_pairs(split, "fine") if (split / "fine").is_dir() else []
    for index, (image, file) in enumerate(pairs):
        label = read_mask(file).astype(np.uint8)
        finer = read_mask(fine[index][1]).astype(np.uint8) if fine else np.zeros_like(label)
        yield change(View(read_image(image), (label, finer)))


def middle_square(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The square (S, S, 3) in the middle of an image (H, W, 3)."""
    side = min(image.shape[:2])
    top, left = ((n - side) // 2 for n in image.shape[:2])
    return np.ascontiguousarray(image[top : top + side, left : left + side])


def random_crop(view: View, rng: np.random.Generator, smallest: float) -> View:
    """Crop a random part (side from `smallest` to 1), turn it over half of the time, and vary its colours."""
    height, width = view.image.shape[:2]
    side = rng.uniform(smallest, 1.0)
    h, w = round(height * side), round(width * side)
    y, x = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
    crop = view.window(slice(y, y + h), slice(x, x + w))
    if rng.random() < 0.5:
        crop = crop.flipped()
    return View(vary_colours(crop.image, rng), crop.labels)


def random_view(
    image: NDArray[np.uint8], label: NDArray[np.uint16], size: tuple[int, int], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Scale an image at random and cut a crop out of it, turned over half of the time, its colours varied.

    Args:
        image: RGB (H, W, 3) uint8.
        label: (H, W) uint16.
        size: (h, w) of the crop in pixels.
        rng: the only source of random numbers.

    Returns:
        (h, w, 3) uint8 and (h, w) uint16. An image smaller than the crop lies at its top left; the rest is
        padding, whose label is IGNORE.
    """
    scale = rng.uniform(*SCALES) * max(size[0] / image.shape[0], size[1] / image.shape[1])
    seen = [min(whole, max(1, round(part / scale))) for whole, part in zip(image.shape, size, strict=False)]
    top, left = (
        int(rng.integers(0, whole - part + 1)) for whole, part in zip(image.shape, seen, strict=False)
    )
    window = (slice(top, top + seen[0]), slice(left, left + seen[1]))
    height, width = (
        min(part, max(1, round(pixels * scale))) for part, pixels in zip(size, seen, strict=True)
    )
    inside = (slice(height), slice(width))
    crop = np.empty((*size, 3), np.uint8)
    crop[:] = IMAGENET_MEAN_RGB
    crop[inside] = vary_colours(resize_image(image[window], (width, height)), rng)
    labels = np.full(size, IGNORE, np.uint16)
    labels[inside] = resize_labels(label[window], (width, height))
    if rng.random() < 0.5:
        # The padding stays at the right, where the run time has it.
        crop[inside], labels[inside] = crop[inside][:, ::-1].copy(), labels[inside][:, ::-1].copy()
    return crop, labels


def vary_colours(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Vary saturation, contrast, brightness and white balance of RGB (H, W, 3) uint8."""
    shade = image.astype(np.float32)
    grey = shade.mean(axis=2, keepdims=True)
    shade = grey + (shade - grey) * np.float32(rng.uniform(0.6, 1.4))
    shade = (shade - 128.0) * np.float32(rng.uniform(0.7, 1.3)) + np.float32(128.0 + rng.uniform(-30, 30))
    shade *= rng.uniform(0.9, 1.1, 3).astype(np.float32)
    return np.clip(shade, 0, 255).astype(np.uint8)


def resize_image(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """An image at another size (width, height): pixels are averaged where it shrinks."""
    shrinks = size[0] < image.shape[1]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
