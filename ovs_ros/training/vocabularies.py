"""Which words a labelled set's label maps are learned under, and how much the pixels of each count."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor

from ovs_ros.training.data import IGNORE, read_names

SYNONYMS = Path(__file__).parent / "synonyms.yaml"
LEAST_POSITIONS = 150
"""How many counted positions a fine name must have to be learned."""


@dataclass(frozen=True)
class LabelVocabulary:
    """The words of one label map.

    Attributes:
        names: K words.
        lines: (256,) uint8, label value to index of its word, or IGNORE.
        weights: (K,) float32, how much a pixel of each word counts: frequency to the power -0.35, so that
            rare words are lifted; mean 1 over pixels.
        synonyms: other words for some names.
    """

    names: list[str]
    lines: NDArray[np.uint8]
    weights: Tensor
    synonyms: dict[str, list[str]]

    def shown(self, rng: np.random.Generator, share: float) -> list[str]:
        """The names, a share of those that have synonyms exchanged for one of them."""
        return [
            str(rng.choice(self.synonyms[name])) if name in self.synonyms and rng.random() < share else name
            for name in self.names
        ]


def label_vocabularies(
    folder: Path, counts: Sequence[NDArray[np.integer]], held_out: Sequence[str]
) -> list[LabelVocabulary]:
    """The class names of a set, and its fine names if it has any.

    Args:
        folder: of the set: holds classes.txt and perhaps fine_names.txt.
        counts: for each label map, (256,) how many positions have each value.
        held_out: names that are left out, and with them their pixels.
    """
    entries = [list(enumerate(read_names(folder / "classes.txt")))]
    if (folder / "fine_names.txt").is_file():
        entries.append(list(enumerate(read_names(folder / "fine_names.txt"), start=1)))
    synonyms = yaml.safe_load(SYNONYMS.read_text()).get(folder.name, {})
    vocabularies = []
    for which, (count, words) in enumerate(zip(counts, entries, strict=False)):
        lines = np.full(256, IGNORE, np.uint8)
        names: list[str] = []
        for line, word in words:
            learned = which == 0 or (count[line] > LEAST_POSITIONS and word != "unknown")
            if learned and word not in held_out:
                lines[line] = len(names)
                names.append(word)
        kept = lines != IGNORE
        frequency = np.bincount(lines[kept], weights=count[kept], minlength=len(names)) + 1.0
        frequency /= frequency.sum()
        weight = frequency**-0.35
        weight = (weight / (weight * frequency).sum()).clip(0.3, 6.0).astype(np.float32)
        own = synonyms if which == 0 else {}
        vocabularies.append(LabelVocabulary(names, lines, torch.from_numpy(weight), own))
    return vocabularies
