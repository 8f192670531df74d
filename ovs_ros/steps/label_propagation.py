"""Label propagation over patches: patches that look alike agree on their words.

After LPOSS (Stojnić et al., arXiv 2503.19777): solve (I - αS) X = Y for the scores Y of all patches at once,
with S = D^-1/2 W D^-1/2, W_ij = max(cos_ij, 0)^γ exp(-σ dist_ij) for each patch's k nearest neighbours by
cosine, W made symmetric by adding its transpose and without diagonal, and D its row sums. Conjugate gradients
solve it in a few steps. α and γ were chosen for the embedded model (see docs/research/postprocess.md).

Ours is that X is divided by the solution for Y = 1. That changes no patch's best word, but makes every result
a mean of the patches' scores: constant scores stay constant, and logits keep their scale for the softmax. The
graph is sparse, but its matrix is stored densely, which is several times faster.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

ALPHA = 0.5
_SQUARINGS = 3
GAMMA = 2**_SQUARINGS
SIGMA = 0.16
"""Of distances in patches: LPOSS's 0.01 a pixel, with patches of 16."""
NEIGHBOURS = 400
STEPS = 10
_TOLERANCE = 1e-4


def propagate(scores: Array, patches: Array, alpha: float = ALPHA, steps: int = STEPS) -> Array:
    """Average the scores of patches that look alike.

    Args:
        scores: (h, w, M), of each patch for each word.
        patches: (h, w, D) unit rows, what patches look like.
        alpha: in [0, 1), how far scores travel; 0: not at all.
        steps: of conjugate gradients at most; fewer where the residual is small before.

    Returns:
        (h, w, M) float32: for each patch a convex combination of all patches' scores, the same for all words.
    """
    height, width, words = scores.shape
    graph = affinities(patches)  # (n, n)
    graph *= np.float32(-alpha)
    graph.flat[:: len(graph) + 1] += np.float32(1)
    right = np.ones((height * width, words + 1), np.float32)
    right[:, :words] = scores.reshape(-1, words)
    solution = _conjugate_gradients(graph, right, steps)
    return (solution[:, :words] / solution[:, words:]).reshape(scores.shape)


def affinities(patches: Array, neighbours: int = NEIGHBOURS) -> Array:
    """LPOSS's S.

    Args:
        patches: (h, w, D) unit rows.
        neighbours: k, itself among them, that each patch points to; all of them where there are fewer.

    Returns:
        (n, n) float32 symmetric, n = h w, with zeros on the diagonal.
    """
    height, width, dim = patches.shape
    flat = patches.reshape(-1, dim)
    count = len(flat)
    weights = flat @ flat.T  # (n, n)
    if neighbours < count:
        least = np.partition(weights, count - neighbours, axis=1)[:, count - neighbours, None]
        weights[weights < least] = 0
    np.maximum(weights, 0, out=weights)
    for _ in range(_SQUARINGS):
        np.square(weights, out=weights)
    weights *= _nearness(height, width)
    weights = weights + weights.T
    weights.flat[:: count + 1] = 0
    degree = weights.sum(axis=1)
    degree[degree == 0] = 1  # A patch that is like no other keeps its scores.
    root = 1 / np.sqrt(degree)
    weights *= root[:, None]
    weights *= root
    return weights


@lru_cache(maxsize=2)
def _nearness(height: int, width: int) -> Array:
    """(n, n) exp(-σ dist) between patches."""
    rows, columns = np.divmod(np.arange(height * width, dtype=np.float32), np.float32(width))
    squared = (rows[:, None] - rows) ** 2 + (columns[:, None] - columns) ** 2
    near: Array = np.exp(np.float32(-SIGMA) * np.sqrt(squared))
    near.setflags(write=False)
    return near


def _conjugate_gradients(matrix: Array, right: Array, steps: int) -> Array:
    """Solve matrix @ x = right, (n, n) symmetric positive definite, for all columns of (n, c) at once."""
    x = np.zeros_like(right)
    residual = right.copy()
    direction = residual.copy()
    squared = np.einsum("nc,nc->c", residual, residual)
    enough = squared * np.float32(_TOLERANCE**2)
    for _ in range(steps):
        if (squared <= enough).all():
            break
        turned = matrix @ direction
        bend = np.einsum("nc,nc->c", direction, turned)
        step = squared / np.maximum(bend, np.finfo(np.float32).tiny)
        x += step * direction
        residual -= step * turned
        now = np.einsum("nc,nc->c", residual, residual)
        direction *= now / np.maximum(squared, np.finfo(np.float32).tiny)
        direction += residual
        squared = now
    return x
