"""Views of labelled images: random crops, flips and colours, the labels following their pixels."""

import cv2
import numpy as np
from numpy.typing import NDArray

from ovs_ros.encoders.patches import IMAGENET_MEAN_RGB
from ovs_ros.training.data import IGNORE, resize_labels

SCALES = (0.5, 2.0)
"""How large `random_view` makes an image, relative to the scale at which it just covers the crop."""


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
