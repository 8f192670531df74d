"""Conformal prediction sets (split conformal): which names a position may have, with a guarantee.

A position's set holds every name k with 1 - p_k at most q. The score of a position is 1 - p of its true name
(Vovk et al. 2005; Sadinle et al. 2019), and q is fitted to labelled images. Positions of one image are
not exchangeable with those of others, so images are what is counted: the score of an image is the smallest q
under which a share 1 - alpha of its positions would have sets that hold their true names, and q is the
ceil((n + 1)(1 - alpha))-th smallest score of n images. If a new image is exchangeable with those, then with
probability 1 - alpha at least, over the draw of all images, a share 1 - alpha at least of its positions has a
set that holds the true name.

That images are scored by this quantile is a choice of ours; the rule for q is the usual one.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities over the last axis."""
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    return shares


def image_score(probabilities: NDArray[np.float32], truth: NDArray[np.integer], alpha: float) -> float:
    """The smallest q under which a share 1 - alpha of an image's positions have sets with their true names.

    Args:
        probabilities: (n, K), n at least 1.
        truth: (n,) the true name of each position, 0 to K - 1.
        alpha: above 0 and below 1.
    """
    scores = np.sort(_scores(probabilities, truth))
    return float(scores[_rank(len(scores), 1 - alpha) - 1])


def fit_limit(scores: Sequence[float], alpha: float) -> float:
    """q: the ceil((n + 1)(1 - alpha))-th smallest of n images' scores; 1 where there are too few images.

    With q = 1 every set holds every name. It takes at least 1/alpha - 1 images to have less.

    Raises:
        ValueError: `alpha` is not above 0 and below 1.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"expected alpha above 0 and below 1, got {alpha}; 0.1 promises 90 %")
    rank = _rank(len(scores) + 1, 1 - alpha)
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else 1.0


def cover(probabilities: NDArray[np.float32], truth: NDArray[np.integer], q: float) -> tuple[float, float]:
    """Form the sets of an image and count those that hold the true names.

    Args:
        probabilities: (n, K), n at least 1.
        truth: (n,) the true name of each position, 0 to K - 1.
        q: from `fit_limit`.

    Returns:
        The share of positions whose set holds the true name, and the mean number of names in a set. Where no
        name is probable enough, a set is empty.
    """
    held = _scores(probabilities, truth) <= q
    sizes = (1 - probabilities.astype(np.float64) <= q).sum(axis=1)
    return float(held.mean()), float(sizes.mean())


def _scores(probabilities: NDArray[np.float32], truth: NDArray[np.integer]) -> NDArray[np.float64]:
    return 1 - probabilities[np.arange(len(truth)), truth].astype(np.float64)


def _rank(count: int, share: float) -> int:
    """The smallest whole number that is at least `share` of `count`, and 1 at least."""
    # Rounding errors must not add a rank: 0.9 * 10 is 9.
    return max(1, math.ceil(count * share - 1e-9))
