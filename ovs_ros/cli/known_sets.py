"""Sets that `ovs train embedded` knows: the images that it keeps for evaluation, and the words of unions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ovs_ros.evaluation.labelled_folder import LabelledSet
from ovs_ros.training.label_spaces import LabelSpace, known_space

NO_CLASS = 65535


@dataclass(frozen=True, eq=False)
class ClassWords:
    """What is asked for in place of a set's classes: of a union such as 'building or tree' its words.

    Attributes:
        words: each once.
        classes: (65536,) uint16, the class of each word's index, and NO_CLASS of all that is no word.
    """

    words: tuple[str, ...]
    classes: NDArray[np.uint16]


def words_of(names: Sequence[str], space: LabelSpace | None) -> ClassWords:
    """The words of classes; those of a known set's union, else the names themselves."""
    words = tuple(names) if space is None else space.words
    classes = np.full(1 << 16, NO_CLASS, np.uint16)
    classes[: len(words)] = np.arange(len(words)) if space is None else space.class_of_words
    return ClassWords(words, classes)


def held_out(dataset: LabelledSet, folder: Path) -> tuple[LabelledSet, LabelSpace]:
    """The images of a known set's folder that are not trained on, and the set's label space.

    Raises:
        ValueError: no known set has these classes, or all images of the folder are trained on.
    """
    space = known_space(dataset.names)
    if space is None:
        raise ValueError(
            f"expected the classes of a set that `ovs train embedded` knows in {folder}, got "
            f"{', '.join(dataset.names)}; only of such a set is it known which images are held out"
        )
    if folder.resolve().name == "val":
        return dataset, space
    rule = space.hold_out
    kept = [pair for i, pair in enumerate(dataset.pairs) if rule is not None and rule.keeps(i)]
    if not kept:
        raise ValueError(f"expected images of {space.name} that are not trained on, got none in {folder}")
    return replace(dataset, pairs=kept), space
