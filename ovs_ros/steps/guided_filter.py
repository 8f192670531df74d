"""The guided filter (He, Sun and Tang, TPAMI 2013) on scores, with the image as the guide.

In every window scores are fitted as an affine function of colour (equations 17 to 19 there), and a
node takes the mean of what the windows around it say of its colour. Where colour changes, scores may change;
where it does not, they are smoothed. It was chosen over the joint bilateral filter, because its time does not
depend on the window, it is the same linear map for all words, so that box filters do them all at once, and
it reproduces edges without a quantised range. Radius and ε were chosen on
`train` images of NYUv2 and CamVid.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

RADIUS = 2
"""Of a window, in nodes."""
SMOOTHNESS = 1e-4
"""ε, added to the colours' variances in a window; colours run from 0 to 1."""
_WORDS = 32
"""How many words are filtered at once: OpenCV 5 filters 128 channels at most, and each word takes four."""


def refine_with_guide(
    scores: Array, guide: Array, radius: int = RADIUS, smoothness: float = SMOOTHNESS
) -> Array:
    """Bring scores to the image's edges.

    Args:
        scores: (rows, cols, M), of each node for each word.
        guide: (rows, cols, 3) in [0, 1], the image at the nodes.
        radius: of a window.
        smoothness: ε; the larger, the stronger an edge must be to be kept.

    Returns:
        (rows, cols, M) float32 C-contiguous: linear in the scores, and the same map for all words.
    """
    rows, cols, words = scores.shape
    mean = _Mean(rows, cols, radius)
    mean_guide = mean(guide)  # (rows, cols, 3)
    products = guide[..., :, None] * guide[..., None, :]  # (rows, cols, 3, 3)
    variance = mean(products.reshape(rows, cols, 9)).reshape(rows, cols, 3, 3)
    variance -= mean_guide[..., :, None] * mean_guide[..., None, :]
    variance += np.float32(smoothness) * np.eye(3, dtype=np.float32)
    inverse = np.linalg.inv(variance)
    out = np.empty(scores.shape, np.float32)
    for start in range(0, words, _WORDS):
        part = slice(start, start + _WORDS)
        out[..., part] = _filtered(scores[..., part], guide, mean_guide, inverse, mean)
    return out


def _filtered(scores: Array, guide: Array, mean_guide: Array, inverse: Array, mean: "_Mean") -> Array:
    """The guided filter of (rows, cols, m) scores, with the inverses (rows, cols, 3, 3) of Σ + εU."""
    rows, cols, words = scores.shape
    stacked = np.empty((rows, cols, 4, words), np.float32)
    stacked[..., 0, :] = scores
    np.multiply(guide[..., None], scores[..., None, :], out=stacked[..., 1:, :])
    means = mean(stacked.reshape(rows, cols, -1)).reshape(stacked.shape)
    mean_scores = means[..., :1, :]
    covariance = means[..., 1:, :] - mean_guide[..., None] * mean_scores  # (rows, cols, 3, m)
    slope = inverse @ covariance  # (rows, cols, 3, m)
    stacked[..., 1:, :] = slope
    np.subtract(mean_scores, mean_guide[..., None, :] @ slope, out=stacked[..., :1, :])
    means = mean(stacked.reshape(rows, cols, -1)).reshape(stacked.shape)
    total: Array = (guide[..., None, :] @ means[..., 1:, :])[..., 0, :]
    total += means[..., 0, :]
    return total


class _Mean:
    """The mean over windows of a grid, of their part inside it."""

    def __init__(self, rows: int, cols: int, radius: int) -> None:
        self._size = (2 * radius + 1, 2 * radius + 1)
        self._share = 1 / self._sum(np.ones((rows, cols), np.float32))[..., None]  # (rows, cols, 1)

    def __call__(self, values: Array) -> Array:
        """(rows, cols, C): the means, of the same shape."""
        total = self._sum(values).reshape(values.shape)
        total *= self._share
        return total

    def _sum(self, values: Array) -> Array:
        return cv2.boxFilter(values, -1, self._size, normalize=False, borderType=cv2.BORDER_CONSTANT)
