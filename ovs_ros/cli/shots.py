"""What `ovs evaluate --shots K` does: K images of each name are examples, and the others are evaluated."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovs_ros.cli.common import Skipped, read_each
from ovs_ros.encoders.features import Features, ImageEncoder
from ovs_ros.evaluation.labelled_folder import LabelledSet
from ovs_ros.segmenter import Segmenter
from ovs_ros.vocabulary.examples import Example, encoded
from ovs_ros.vocabulary.vocabulary import CategorySpec, Vocabulary

LEAST_SHARE = 0.005
"""Of an image's pixels: from here on a name is in it."""


@dataclass(frozen=True)
class Shots:
    """Examples out of a labelled set.

    Attributes:
        examples: of each name, in the set's order; fewer than asked for where a name is rare, for at most
            half of the images with a name serve as its examples.
        images: how many images serve.
        others: the set without them.
    """

    examples: list[tuple[Example, ...]]
    images: int
    others: LabelledSet

    def vocabulary(self, plain: Vocabulary, *, examples_only: bool = False) -> Vocabulary:
        """A vocabulary that starts with the set's names, with examples; `examples_only` drops other words."""
        taught = [
            CategorySpec(category.name, examples=given, examples_only=examples_only and bool(given))
            for category, given in zip(plain.categories, self.examples, strict=False)
        ]
        rest = [] if examples_only else plain.categories[len(taught) :]
        return Vocabulary.from_specs([*taught, *rest], plain.negatives)


def take_shots(dataset: LabelledSet, count: int, skipped: Skipped) -> Shots:
    """Choose `count` images of each name: for rare names first, and those first that serve already."""
    found: list[tuple[int, NDArray[np.intp]]] = []
    classes = len(dataset.names)
    for number, (_, truth) in read_each(range(len(dataset)), dataset.read, skipped, "Choosing examples"):
        pixels = np.bincount(truth.ravel(), minlength=256)[:classes]
        found.append((number, np.flatnonzero(pixels >= LEAST_SHARE * truth.size)))
    order = np.random.default_rng(0).permutation(len(found))
    holders = [[found[i][0] for i in order if row in found[i][1]] for row in range(classes)]
    serving: dict[int, list[int]] = {}
    for row in sorted(range(classes), key=lambda row: len(holders[row])):
        first = sorted(holders[row], key=lambda number: number not in serving)
        for number in first[: min(count, len(first) // 2)]:
            serving.setdefault(number, []).append(row)
    examples: list[list[Example]] = [[] for _ in dataset.names]
    for number, rows in serving.items():
        _, truth = dataset.read(number)
        for row in rows:
            mask = encoded((truth == row).astype(np.uint8) * 255)
            examples[row].append(Example(dataset.pairs[number][0], mask=mask))
    kept = [pair for number, pair in enumerate(dataset.pairs) if number not in serving]
    return Shots([tuple(given) for given in examples], len(serving), replace(dataset, pairs=kept))


def sharing_features(segmenter: Segmenter) -> Segmenter:
    """The same segmenter, which encodes an image once for several vocabularies."""
    encoder: Any = _Remembering(segmenter.model.image_encoder)
    return replace(segmenter, model=replace(segmenter.model, image_encoder=encoder))


class _Remembering:
    """An image encoder that keeps the features of the last image."""

    def __init__(self, encoder: ImageEncoder) -> None:
        self._encoder = encoder
        self._last: tuple[NDArray[np.uint8], Features] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode(self, image: NDArray[np.uint8]) -> Features:
        """See `ImageEncoder`."""
        if self._last is None or self._last[0] is not image:
            self._last = image, self._encoder.encode(image)
        return self._last[1]
