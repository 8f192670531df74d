"""Encode the training images once, with the shipped int8 encoder, into files that training maps into memory.

The encoder stays frozen, so its tokens can be kept: (n, 1 + N, 1536) as int8 with one scale a token, beside a
small RGB guide and the labels at eight positions a patch side.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from ovs_ros.encoders.dino import DinoEncoder
from ovs_ros.encoders.embedded import GUIDE
from ovs_ros.encoders.patches import IMAGENET_MEAN_RGB, fit_grid, place
from ovs_ros.runtime.images import read_image
from ovs_ros.training.data import IGNORE, labelled_images, read_image_names, resize_labels

Array = NDArray[np.generic]
SMALL, LARGE, SQUARE = (21, 28), (36, 48), (16, 16)
LABELLED_SETS = ("nyuv2", "camvid")
Saliency = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""RGB (S, S, 3) to how much each pixel stands out: (S, S) uint8."""


@dataclass(frozen=True)
class View:
    """One look at an image: RGB (H, W, 3) uint8 and its label maps (H, W) uint8, all of one size."""

    image: NDArray[np.uint8]
    labels: tuple[NDArray[np.uint8], ...]
    source: int


def random_crop(view: View, rng: np.random.Generator, smallest: float) -> View:
    """Crop a random part (side from `smallest` to 1), turn it over half of the time, and vary its colours."""
    height, width = view.image.shape[:2]
    side = rng.uniform(smallest, 1.0)
    h, w = round(height * side), round(width * side)
    y, x = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
    step = -1 if rng.random() < 0.5 else 1

    def cut(a: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.ascontiguousarray(a[y : y + h, x : x + w][:, ::step])

    image = cut(view.image).astype(np.float32)
    grey = image.mean(axis=2, keepdims=True)
    image = grey + (image - grey) * rng.uniform(0.6, 1.4)
    image = (image - 128.0) * rng.uniform(0.7, 1.3) + 128.0 + rng.uniform(-30, 30)
    image *= rng.uniform(0.9, 1.1, 3).astype(np.float32)
    return View(np.clip(image, 0, 255).astype(np.uint8), tuple(cut(a) for a in view.labels), view.source)


def write_cache(
    folder: Path,
    encoder: DinoEncoder,
    views: Callable[[], Iterator[View]],
    *,
    count: int,
    grid: tuple[int, int],
    label_maps: int,
    title: str,
) -> None:
    """Encode views of one grid shape into `folder`.

    Args:
        folder: gets tokens.npy int8 (n, 1 + N, 1536), scales.npy float16 (n, 1 + N), guide.npy uint8
            (n, 8 rows, 8 columns, 3), label_0.npy … uint8 (n, 8 rows, 8 columns) with 255 in the padding, and
            source.npy int32 (n,).
        encoder: the frozen image encoder.
        views: makes the iterator of views.
        count: how many views there are.
        grid: (rows, columns); every view is fitted into it.
        label_maps: how many label maps a view has.
        title: for the progress bar.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows, columns = grid
    tokens_n, fine = 1 + rows * columns, (rows * GUIDE, columns * GUIDE)

    def create(name: str, kind: type, *shape: int) -> Array:
        return np.lib.format.open_memmap(folder / f"{name}.npy", "w+", kind, (count, *shape))

    tokens = create("tokens", np.int8, tokens_n, encoder.width)
    scales = create("scales", np.float16, tokens_n)
    guide = create("guide", np.uint8, *fine, 3)
    labels = [create(f"label_{i}", np.uint8, *fine) for i in range(label_maps)]
    source = create("source", np.int32)
    for i, view in enumerate(track(views(), total=count, description=title)):
        fitted = fit_grid(*view.image.shape[:2], patches=rows * columns, patch=encoder.patch)
        if fitted.rows > rows or fitted.columns > columns:
            raise ValueError(f"expected a view that fits {rows} x {columns} patches, got {view.image.shape}")
        canvas = np.empty((rows * encoder.patch, columns * encoder.patch, 3), np.uint8)
        canvas[:] = IMAGENET_MEAN_RGB
        place(view.image, fitted, canvas)
        raw = encoder.tokens(canvas)  # (1 + N, 1536)
        scale = np.abs(raw).max(axis=1) / 127.0
        tokens[i] = np.round(raw / scale[:, None])
        scales[i] = scale
        guide[i] = cv2.resize(canvas, fine[::-1], interpolation=cv2.INTER_AREA)
        for store, label in zip(labels, view.labels, strict=True):
            h, w = (round(n * GUIDE / encoder.patch) for n in (fitted.height, fitted.width))
            store[i] = IGNORE
            store[i, :h, :w] = resize_labels(label, (w, h))
        source[i] = view.source


def labelled_views(split: Path, change: Callable[[View], View]) -> Iterator[View]:
    """A split's images with their class labels and fine labels (0 where the set has none), each changed."""
    for index, files in enumerate(labelled_images(split)):
        label = read_grey(files.label)
        fine = read_grey(files.fine) if files.fine else np.zeros_like(label)
        yield change(View(read_image(files.image), (label, fine), index))


def read_grey(path: Path) -> NDArray[np.uint8]:
    """Read a label map (H, W) uint8.

    Raises:
        ValueError: OpenCV cannot read it.
    """
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise ValueError(f"expected a label image that OpenCV reads, got {path}")
    return image


def flipped(view: View) -> View:
    """A view turned over."""
    image, *labels = (np.ascontiguousarray(a[:, ::-1]) for a in (view.image, *view.labels))
    return View(image, tuple(labels), view.source)


def named_views(folder: Path, saliency: Saliency) -> Iterator[View]:
    """The middle squares of named images; their label map is the saliency."""
    for index, (path, _) in enumerate(read_image_names(folder)):
        image = read_image(path)
        side = min(image.shape[:2])
        top, left = ((n - side) // 2 for n in image.shape[:2])
        square = np.ascontiguousarray(image[top : top + side, left : left + side])
        yield View(square, (saliency(square),), index)


def build_cache(data: Path, caches: Path, encoder: DinoEncoder, saliency: Saliency) -> None:
    """Encode all that `train_head` needs: labelled sets (as they are, flipped, cropped), captions, names."""
    rng = np.random.default_rng(0)
    changes: list[tuple[str, str, tuple[int, int], Callable[[View], View]]] = [
        ("train", "full", SMALL, lambda view: view),
        ("train", "flip", SMALL, flipped),
        ("train", "crop", SMALL, lambda view: random_crop(view, rng, 0.45)),
        ("train", "color", LARGE, lambda view: random_crop(view, rng, 0.85)),
        ("val", "full", SMALL, lambda view: view),
        ("val", "full", LARGE, lambda view: view),
    ]
    for name in LABELLED_SETS:
        for split, kind, grid, change in changes:
            write_cache(
                caches / f"{name}_{split}_{kind}_{grid[0]}",
                encoder,
                partial(labelled_views, data / name / split, change),
                count=len(labelled_images(data / name / split)),
                grid=grid,
                label_maps=2,
                title=f"{name} {split} {kind} {grid[0]}x{grid[1]}",
            )
    captioned = sorted((data / "flickr8k" / "image").glob("*"))
    write_cache(
        caches / "flickr8k",
        encoder,
        lambda: (View(read_image(path), (), index) for index, path in enumerate(captioned)),
        count=len(captioned),
        grid=SQUARE,
        label_maps=0,
        title="flickr8k",
    )
    write_cache(
        caches / "imagenet",
        encoder,
        partial(named_views, data / "imagenet_samples", saliency),
        count=len(read_image_names(data / "imagenet_samples")),
        grid=SQUARE,
        label_maps=1,
        title="imagenet samples",
    )
