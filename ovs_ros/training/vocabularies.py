"""Which words a labelled set's label maps are learned under, and how much the pixels of each count."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor

from ovs_ros.training.data import IGNORE, read_names

SYNONYMS = Path(__file__).parent / "synonyms.yaml"
HELD_OUT = (
    "monitor", "keyboard", "bottle", "plant", "stove", "printer", "bench", "microwave", "toaster",
    "vase", "bicycle", "basket", "garbage bin", "computer", "dishwasher", "ladder",
    "faucet", "stool", "cup", "laptop",
)  # fmt: skip
"""Fine names of NYUv2 that --hold-out hides from the pixel labels."""


@dataclass(frozen=True)
class LabelVocabulary:
    """The words of one label map.

    Attributes:
        names: K words.
        lines: (256,) int64, label value to index of its word, or IGNORE.
        weights: (K,) float32, how much a pixel of each word counts; see `balance`.
        synonyms: other words for some names.
    """

    names: list[str]
    lines: NDArray[np.int64]
    weights: Tensor
    synonyms: dict[str, list[str]]

    def shown(self, rng: np.random.Generator, share: float) -> list[str]:
        """The names, a share of those that have synonyms exchanged for one of them."""
        return [
            str(rng.choice(self.synonyms[name])) if name in self.synonyms and rng.random() < share else name
            for name in self.names
        ]

    @property
    def words(self) -> list[str]:
        """All that `shown` can give."""
        return [*self.names, *(word for own in self.synonyms.values() for word in own)]


def balance(counts: NDArray[Any]) -> Tensor:
    """Weights (K,) that lift rare words: frequency of their pixels to the power -0.35, mean 1 over pixels."""
    share = (counts + 1.0) / (counts + 1.0).sum()
    weight = share**-0.35
    return torch.from_numpy((weight / (weight * share).sum()).clip(0.3, 6.0).astype(np.float32))


def count_values(labels: NDArray[np.uint8]) -> NDArray[np.intp]:
    """How often each value occurs: (256,)."""
    return np.bincount(np.asarray(labels).ravel(), minlength=256)


def label_vocabularies(
    folder: Path,
    counts: Sequence[NDArray[np.integer]],
    *,
    held_out: Collection[str] = (),
    among: Collection[str] | None = None,
    least: int = 150,
) -> list[LabelVocabulary]:
    """The class names of a set, and its fine names if it has any.

    Args:
        folder: of the set: holds classes.txt and perhaps fine_names.txt.
        counts: for each label map, (256,) how many positions have each value.
        held_out: names that are left out, and with them their pixels.
        among: all names that count; None: any.
        least: how many positions a fine name must have, or more.
    """
    entries = [list(enumerate(read_names(folder / "classes.txt")))]
    if (folder / "fine_names.txt").is_file():
        entries.append(list(enumerate(read_names(folder / "fine_names.txt"), start=1)))
    synonyms = yaml.safe_load(SYNONYMS.read_text()).get(folder.name, {})
    vocabularies = []
    for which, (count, words) in enumerate(zip(counts, entries, strict=False)):
        lines = np.full(256, IGNORE)
        names: list[str] = []
        for line, word in words:
            known = which == 0 or (count[line] > least and word != "unknown")
            if known and word not in held_out and (among is None or word in among):
                lines[line] = len(names)
                names.append(word)
        kept = lines != IGNORE
        frequency = np.bincount(lines[kept], weights=count[kept], minlength=len(names))
        own = synonyms if which == 0 else {}
        vocabularies.append(LabelVocabulary(names, lines, balance(frequency), own))
    return vocabularies
