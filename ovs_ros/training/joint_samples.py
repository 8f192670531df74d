"""What a step of the embedded model sees: crops of labelled images of several sets, and whole pictures.

A batch follows from the seed, the step and the process alone, so that a resumed run sees what the run would
have seen, whatever the number of workers.
"""

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ovs_ros.encoders.patches import IMAGENET_MEAN_RGB
from ovs_ros.evaluation.labelled_folder import NAMELESS, labelled_pairs, read_mask
from ovs_ros.runtime.images import list_images, read_image
from ovs_ros.training.data import UNLABELLED, read_names, resize_labels
from ovs_ros.training.distributed import Ranks
from ovs_ros.training.label_spaces import LabelSpace
from ovs_ros.training.options import EmbeddedOptions
from ovs_ros.training.views import resize_image, vary_colours
from ovs_ros.vocabulary.yaml_io import load_class_names

Image = NDArray[np.uint8]
AREA = 384 * 512
"""Pixels of an image at the scale 1."""
SCALES = (0.6, 1.7)
"""The least and the largest scale of a view, drawn evenly in the logarithm."""
STRIDE = 4
"""Pixels from one position with a label to the next."""
SIDE = 224
"""Of pictures, in pixels."""
BOX_MARGIN = 0.1
"""What is cut off each side of a box, as a share of its extent: its border is often not the object."""
FOCUSED = 0.6
"""How many views are of an image with a class drawn at random, with a pixel of it inside."""
LEAST_SHARE = 0.002
"""Images with a smaller share of a class are not drawn for it."""


class View(NamedTuple):
    """A crop at the top left of a canvas, and its labels at every fourth pixel.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        classes: (H/4, W/4) int64, a class's index, the number of classes where none is labelled, and -1 where
            nothing is known or the canvas is padded.
        fine: (H/4, W/4) int64, values of the set's finer labels, 0 where unknown.
    """

    image: Image
    classes: NDArray[np.int64]
    fine: NDArray[np.int64]


class PixelSet:
    """The images of a set of masks or boxes that are trained on.

    Args:
        folder: of the set.
        space: what its labels mean.
        hold_out: keep the images out that `space.hold_out` names.

    Attributes:
        frequencies: (classes,), how often each class is among the labelled positions of a step.

    Raises:
        FileNotFoundError: images or labels are missing.
        ValueError: the set's classes are others than the label space's, or no image is left.
    """

    def __init__(self, folder: Path, space: LabelSpace, *, hold_out: bool) -> None:
        self.space = space
        self._boxes: dict[str, list[tuple[int, ...]]] = {}
        if space.form == "boxes":
            self._boxes = _read_boxes(folder / "boxes.tsv", space)
            images = list_images(folder / "image")
            files = [(image, image) for image in images]
        else:
            check_classes(folder, space)
            files = labelled_pairs(folder / "train")
        self.fine_names = fine_names(folder) if space.fine else ()
        fine = labelled_pairs(folder / "train", "fine") if space.fine else files
        rule = space.hold_out if hold_out else None
        kept = [i for i in range(len(files)) if rule is None or not rule.keeps(i)]
        self._files = [(*files[i], fine[i][1]) for i in kept]
        shares = self._shares()
        found = [np.flatnonzero(column > LEAST_SHARE) for column in shares.T]
        self._with_class = {value: images for value, images in enumerate(found) if len(images) >= 2}
        self.frequencies = self._frequencies(shares)

    def __len__(self) -> int:
        return len(self._files)

    def _shares(self) -> NDArray[np.float64]:
        """(images, classes): the share of an image's pixels that a class labels."""
        count = len(self.space.classes)
        labels = (self._labels(index) for index in range(len(self)))
        return np.array([np.bincount(one.ravel(), minlength=256)[:count] / one.size for one in labels])

    def _frequencies(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """(classes,): the share of each class in the labelled positions that `JointSamples` draws.

        Of whole images, not of their crops: what `draw` and `_choose` prefer, in one formula.
        """
        drawn = np.full(len(self), 1 / len(self))
        if self._with_class:
            drawn *= 1 - FOCUSED
            for images in self._with_class.values():
                drawn[images] += FOCUSED / (len(self._with_class) * len(images))
        labelled, shown = shares.sum(1, keepdims=True), shares > 0
        even = shares / np.maximum(labelled, 1e-9)
        balanced = shown / np.maximum(shown.sum(1, keepdims=True), 1)
        frequencies = drawn @ (even + balanced) / 2
        return np.asarray(frequencies / max(frequencies.sum(), 1e-9))

    def _labels(self, index: int) -> Image:
        """An image's classes, (H, W) uint8."""
        file, labels, _ = self._files[index]
        if self.space.form == "boxes":
            return draw_boxes(read_image(file).shape[:2], self._boxes.get(file.name, []))
        return read_mask(labels).astype(np.uint8)

    def _read(self, index: int) -> tuple[Image, Image, Image]:
        """An image, its classes, and its finer labels."""
        file, _, fine = self._files[index]
        image, classes = read_image(file), self._labels(index)
        return image, classes, read_mask(fine).astype(np.uint8) if self.space.fine else np.zeros_like(classes)

    def draw(self, size: tuple[int, int], rng: np.random.Generator) -> View:
        """A view of a random image at a random scale.

        Args:
            size: (H, W) of the canvas, multiples of 4.
            rng: the only source of random numbers.
        """
        wanted = None
        if self._with_class and rng.random() < FOCUSED:
            wanted = int(rng.choice(list(self._with_class)))
            image, classes, fine = self._read(int(rng.choice(self._with_class[wanted])))
        else:
            image, classes, fine = self._read(int(rng.integers(len(self))))
        height, width = classes.shape
        scale = math.sqrt(AREA / (height * width)) * math.exp(rng.uniform(*np.log(SCALES)))
        h, w = (min(n, max(8, round(part / scale))) for n, part in zip((height, width), size, strict=True))
        top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
        if wanted is not None:
            shown = np.flatnonzero(classes == wanted)
            y, x = divmod(int(shown[rng.integers(len(shown))]), width)
            # The pixel lies anywhere in the window, not in its middle.
            top = int(np.clip(y - rng.integers(0, h), 0, height - h))
            left = int(np.clip(x - rng.integers(0, w), 0, width - w))
        window = slice(top, top + h), slice(left, left + w)
        inside = slice(min(size[0], round(h * scale))), slice(min(size[1], round(w * scale)))
        fitted = inside[1].stop, inside[0].stop
        turn = slice(None, None, -1 if rng.random() < 0.5 else 1)

        canvas = np.empty((*size, 3), np.uint8)
        canvas[:] = IMAGENET_MEAN_RGB
        canvas[inside] = vary_colours(resize_image(image[window], fitted), rng)[:, turn]
        known = np.full(size, -1, np.int64)
        known[inside] = resize_labels(classes[window], fitted)[:, turn]
        finer = np.zeros(size, np.int64)
        finer[inside] = resize_labels(fine[window], fitted)[:, turn]
        count = len(self.space.classes)
        known[known >= count] = count if self.space.unlabelled == "none of these" else -1
        at = slice(STRIDE // 2, None, STRIDE)
        return View(canvas, known[at, at], finer[at, at])


def check_classes(folder: Path, space: LabelSpace) -> None:
    """Refuse a set whose class file names others than its label space.

    Raises:
        ValueError: they differ; the message names the first one.
    """
    names = load_class_names(folder / "classes.txt")
    if tuple(names) != space.classes:
        pairs = zip((*names, "nothing"), (*space.classes, "nothing"), strict=False)
        theirs, ours = next(pair for pair in pairs if pair[0] != pair[1])
        raise ValueError(
            f"expected the classes of the label space {space.name} in {folder / 'classes.txt'}, got {theirs} "
            f"in place of {ours}"
        )


def fine_names(folder: Path) -> tuple[str, ...]:
    """The names of a set's finer labels; that of value v is at v - 1, and 'unknown' is no name."""
    return tuple(read_names(folder / "fine_names.txt"))


def _read_boxes(file: Path, space: LabelSpace) -> dict[str, list[tuple[int, ...]]]:
    """Image -> its boxes: class, x0, y0, x1, y1 in pixels."""
    boxes: dict[str, list[tuple[int, ...]]] = {}
    with file.open(newline="") as lines:
        for name, word, *sides in list(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]:
            if word not in space.classes:
                raise ValueError(f"expected words out of {', '.join(space.classes)} in {file}, got {word!r}")
            boxes.setdefault(name, []).append((space.classes.index(word), *map(int, sides)))
    return boxes


def draw_boxes(size: tuple[int, ...], boxes: Sequence[tuple[int, ...]]) -> Image:
    """Labels (H, W) uint8 of boxes without their margins, small ones over large ones; 255 elsewhere.

    Args:
        size: (H, W).
        boxes: class, x0, y0, x1, y1 of each, in pixels.
    """
    label = np.full(size, UNLABELLED, np.uint8)
    for value, x0, y0, x1, y1 in sorted(boxes, key=lambda box: -(box[3] - box[1]) * (box[4] - box[2])):
        dx, dy = (x1 - x0) * BOX_MARGIN, (y1 - y0) * BOX_MARGIN
        top, left = int(y0 + dy), int(x0 + dx)
        label[top : max(int(y1 - dy), top + 1), left : max(int(x1 - dx), left + 1)] = value
    return label


@dataclass(frozen=True)
class Pictures:
    """Images that are described as a whole.

    Attributes:
        files: of the images.
        targets: (N,) int64, what describes each: an index of captions, or of names.
        whole: whether almost all of an image is shown, as captions need it; else a square part is.
    """

    files: tuple[Path, ...]
    targets: NDArray[np.int64]
    whole: bool

    def draw(self, index: int, rng: np.random.Generator) -> Image:
        """One of them, cropped at random to (224, 224, 3) uint8 RGB."""
        image = read_image(self.files[index])
        height, width = image.shape[:2]
        if self.whole:
            h, w = (int(n * rng.uniform(0.85, 1.0)) for n in (height, width))
        else:
            h = w = int(min(height, width) * rng.uniform(0.75, 1.0))
        top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
        crop = resize_image(image[top : top + h, left : left + w], (SIDE, SIDE))
        return vary_colours(crop[:, ::-1] if rng.random() < 0.5 else crop, rng)


class Batch(NamedTuple):
    """What one process takes in a step.

    Attributes:
        images: (B, H, W, 3) uint8 RGB.
        places: (B, P) int64, positions of the grid at stride 4, row by row.
        classes, fine: (B, P) int64, their labels; see `View`.
        sets: (B,) int64, the set of each image.
        kind: which of the kinds of pictures; -1: none in this step.
        pictures: (b, 224, 224, 3) uint8 RGB.
        targets: (b,) int64; see `Pictures`.
    """

    images: Tensor
    places: Tensor
    classes: Tensor
    fine: Tensor
    sets: Tensor
    kind: int
    pictures: Tensor
    targets: Tensor


class JointSamples(Dataset):
    """Batches by the step.

    Args:
        sets: of masks and boxes, drawn by their weights.
        pictures: kinds of pictures, which take turns: one kind in every second step.
        options: sizes.
        ranks: this process among its fellows.
    """

    def __init__(
        self, sets: Sequence[PixelSet], pictures: Sequence[Pictures], options: EmbeddedOptions, ranks: Ranks
    ) -> None:
        self.sets, self.pictures, self.options, self.ranks = sets, pictures, options, ranks
        weights = np.array([one.space.weight for one in sets])
        self._ends = np.cumsum(weights / weights.sum())

    def __len__(self) -> int:
        return self.options.steps

    def __getitem__(self, step: int) -> Batch:
        options, world = self.options, self.ranks.world
        rng = np.random.default_rng((options.seed, 1, step, self.ranks.rank))
        count, size = options.batch // world, (options.height, options.width)
        # Strata, so that each set comes about as often in every batch.
        chosen = np.searchsorted(self._ends, (np.arange(count) + rng.random()) / count)
        chosen = np.minimum(chosen, len(self.sets) - 1)
        views = [self.sets[number].draw(size, rng) for number in chosen]
        places = np.stack([_choose(view.classes.ravel(), options.points, rng) for view in views])
        classes, fine = (
            np.take_along_axis(np.stack([getattr(view, part).ravel() for view in views]), places, axis=1)
            for part in ("classes", "fine")
        )
        kind = step // 2 % len(self.pictures) if self.pictures and step % 2 == 0 else -1
        crops, targets = np.zeros((0, SIDE, SIDE, 3), np.uint8), np.zeros(0, np.int64)
        if kind >= 0:
            source = self.pictures[kind]
            share = min(max(1, options.pictures // world), len(source.files))
            which = rng.choice(len(source.files), share, replace=False)
            crops, targets = np.stack([source.draw(int(i), rng) for i in which]), source.targets[which]
        images = np.stack([view.image for view in views])
        return Batch(
            images=torch.from_numpy(images),
            places=torch.from_numpy(places),
            classes=torch.from_numpy(classes),
            fine=torch.from_numpy(fine),
            sets=torch.from_numpy(chosen),
            kind=kind,
            pictures=torch.from_numpy(crops),
            targets=torch.from_numpy(targets),
        )


def _choose(classes: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Positions with labels, half of them drawn evenly, half so that each class comes equally often."""
    known = np.flatnonzero(classes >= 0)
    if not len(known):
        return rng.integers(0, len(classes), count)
    _, inverse, counts = np.unique(classes[known], return_inverse=True, return_counts=True)
    shares = (1.0 / counts)[inverse]
    even = rng.choice(known, count // 2)
    balanced = rng.choice(known, count - count // 2, p=shares / shares.sum())
    return np.concatenate([even, balanced])


def load_batches(samples: JointSamples, first: int) -> Iterator[Batch]:
    """Read the batches from step `first` ahead."""
    loader = DataLoader(
        samples,
        batch_size=None,
        sampler=range(first, len(samples)),
        num_workers=samples.options.workers,
        worker_init_fn=_start_worker,
        # Workers' seeds must not be drawn from those that the step draws from.
        generator=torch.Generator(),
    )
    return iter(loader)


def _start_worker(worker: int) -> None:
    # One thread a worker: they share the cores already.
    cv2.setNumThreads(0)


def nameless(names: Sequence[str]) -> NDArray[np.int64]:
    """(256,) int64: value of a finer label -> index of its name among those that are names, or -1."""
    table = np.full(256, -1, np.int64)
    named = [value for value, name in enumerate(names, 1) if name != NAMELESS]
    table[named] = np.arange(len(named))
    return table
