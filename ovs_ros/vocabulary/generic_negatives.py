"""Generic negative words: contrastive concepts, without which a list of words paints the whole picture.

They compete for pixels wherever a vocabulary has no negative words of its own. Few and generic ones do best:
a long list takes pixels from the words that were asked for (docs/guide/vocabulary.md has the figures).
"""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ovs_ros.vocabulary.category import checked_name, name_key

GENERIC = ("background", "grass", "floor", "wall")
OFF, OWN = "off", "generic"
NEAR = 0.25
"""How near a generic negative may come to a category: 0 is as near as unrelated words are, 1 the same."""


def read_negatives(setting: str) -> tuple[str, ...]:
    """The words that a setting asks for.

    Args:
        setting: 'off' for none, 'generic' for those that come with the package, or words separated by commas.

    Raises:
        VocabularyError: a word that cannot be.
    """
    if setting == OFF:
        return ()
    if setting == OWN:
        return GENERIC
    return tuple(dict.fromkeys(checked_name(word, "negative") for word in re.split("[,;]", setting)))


def apart(
    categories: NDArray[np.float32],
    negatives: NDArray[np.float32],
    unrelated: NDArray[np.float32],
) -> NDArray[np.bool_]:
    """Which negative words are far enough from all categories: (N,) bool.

    The mean cosine of unrelated words is about 0 in some spaces and 0.8 in others (CLIP's): nearness counts
    from there.

    Args:
        categories: (K, D) unit embeddings.
        negatives: (N, D) unit embeddings.
        unrelated: (U, D) unit embeddings of words that have nothing to do with each other.
    """
    between = unrelated @ unrelated.T
    base = between[~np.eye(len(unrelated), dtype=bool)].mean()
    nearest = (negatives @ categories.T).max(axis=1)  # (N,)
    far: NDArray[np.bool_] = (nearest - base) / (1 - base) < NEAR
    return far


def without(words: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """The words that are none of these names."""
    known = {name_key(name) for name in names}
    return tuple(word for word in words if name_key(word) not in known)
