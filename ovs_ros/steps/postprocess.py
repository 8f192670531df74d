"""Refinement of logits by what the image and its patches show, without any training."""

from dataclasses import replace
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from ovs_ros.encoders.features import Features
from ovs_ros.encoders.heads import BilinearHead
from ovs_ros.geometry.resample import resample_bilinear
from ovs_ros.options import Postprocess
from ovs_ros.steps.grid import covered, crop
from ovs_ros.steps.label_propagation import propagate
from ovs_ros.steps.pamr import refine_with_pamr

Array = NDArray[np.float32]

NODES_A_PATCH = 4
"""What follows the image's edges needs at least this many nodes along a patch's side."""


def with_fine_grid(features: Features, postprocess: Postprocess) -> Features:
    """The same features, with nodes fine enough for what follows the image's edges.

    Encoders without an upsampling of their own give logits for patches alone. Theirs are spread bilinearly.
    """
    if postprocess != "pamr":
        return features
    factors = [
        -(-NODES_A_PATCH * patches // nodes)
        for nodes, patches in zip(features.grid, features.patch_tokens.shape, strict=False)
    ]
    if max(factors) <= 1:
        return features
    return replace(features, head=BilinearHead(features.head, max(factors)))


def refine(logits: Array, features: Features, image: NDArray[np.uint8], postprocess: Postprocess) -> Array:
    """Refine logits.

    Propagation works on the means of the nodes' logits over patches, so that it does not matter whether these
    come from cosines or from a decoder. What it changes of them is spread bilinearly and added to the nodes',
    which keep their detail.

    Args:
        logits: (rows, cols, C) float32, for the nodes that the image covers.
        features: what the logits were made from, as `with_fine_grid` gives them.
        image: (H, W, 3) uint8 RGB.
        postprocess: how.

    Returns:
        (rows, cols, C) float32 C-contiguous; with 'none' the logits themselves.
    """
    if postprocess == "propagation":
        return _propagated(logits, features)
    if postprocess == "pamr":
        return refine_with_pamr(logits, guide_at_nodes(image, features))
    return logits


def guide_at_nodes(image: NDArray[np.uint8], features: Features) -> Array:
    """The image's mean colours around the nodes that it covers.

    Args:
        image: (H, W, 3) uint8 RGB.
        features: say how the nodes lie on the image.

    Returns:
        (rows, cols, 3) float32 in [0, 1].
    """
    nodes = features.grid
    rows, cols = (covered(nodes[axis], features.valid[axis]) for axis in (0, 1))
    # Four pixels a node: a last node that the image covers in part is then right to an eighth of a node.
    height = min(max(1, round(4 * nodes[0] * features.valid[0])), 4 * rows)
    width = min(max(1, round(4 * nodes[1] * features.valid[1])), 4 * cols)
    fine = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    fine = cv2.copyMakeBorder(fine, 0, 4 * rows - height, 0, 4 * cols - width, cv2.BORDER_REPLICATE)
    guide: Array = cv2.resize(fine, (cols, rows), interpolation=cv2.INTER_AREA).astype(np.float32)
    guide /= 255
    return guide


def _propagated(logits: Array, features: Features) -> Array:
    patches = crop(features.patch_tokens, features.valid)  # (h, w, D)
    rows, cols, words = logits.shape
    nodes, grid = features.grid, features.patch_tokens.shape
    down = _mean_matrix(patches.shape[0], grid[0], rows, nodes[0])
    across = _mean_matrix(patches.shape[1], grid[1], cols, nodes[1])
    coarse = across @ (down @ logits.reshape(rows, -1)).reshape(-1, cols, words)  # (h, w, C)
    change = propagate(coarse, patches) - coarse
    # Both are cut behind the image's end, each within a cell of its own: what they share are the whole grids.
    whole_patches = grid[0] / patches.shape[0], grid[1] / patches.shape[1]
    spread = resample_bilinear(change, (rows, cols), whole_patches, (nodes[0] / rows, nodes[1] / cols))
    spread += logits
    return spread


@lru_cache(maxsize=64)
def _mean_matrix(kept: int, patches: int, kept_nodes: int, nodes: int) -> Array:
    """(kept, kept_nodes): the mean of the nodes in each patch of one axis, weighted by their share in it.

    Args:
        kept: how many patches from the start of the axis.
        patches: that the axis has.
        kept_nodes: how many nodes from the start.
        nodes: that the axis has.
    """
    edges, fine = np.arange(kept + 1) / patches, np.arange(kept_nodes + 1) / nodes
    fine[-1] = max(fine[-1], edges[-1])  # The image may end before the last patch does, and so do the nodes.
    share = np.minimum(edges[1:, None], fine[1:]) - np.maximum(edges[:-1, None], fine[:-1])
    share = np.maximum(share, 0)
    matrix: Array = (share / share.sum(axis=1, keepdims=True)).astype(np.float32)
    matrix.setflags(write=False)
    return matrix
