"""The candidate categories of each image in a training batch, and their targets.

At run time a frame is decided among the few categories that selection names. In training the categories that
truly are there must be among them, otherwise they would have no channel: they are added. Images
of a batch have candidates of their own, padded to one number with a mask.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ovs_ros.training.data import IGNORE
from ovs_ros.zoo.coarse_to_fine.network_inputs import ImageFeatures

THETA = 0.5
"""theta of DCP-CLIP's equation 4."""


@dataclass(frozen=True)
class Candidates:
    """The categories of a batch's images.

    Attributes:
        columns: (B, M) int64, columns of the batch's vocabulary; 0 in padding.
        mask: (B, M) bool, False in padding.
    """

    columns: Tensor
    mask: Tensor

    def pick(self, vocabulary: Tensor) -> Tensor:
        """Rows (K, …) of a vocabulary, such as word embeddings or names' weights: (B, M, …)."""
        return vocabulary[self.columns]


def present(labels: Tensor, categories: int) -> Tensor:
    """The true categories of each image.

    Args:
        labels: (B, H, W) integer columns of the vocabulary, or IGNORE.
        categories: K, the size of the vocabulary.

    Returns:
        (B, K) bool.

    Raises:
        ValueError: a label is neither a column nor IGNORE.
    """
    flat = labels.flatten(1).long()  # (B, H * W)
    counted = flat != IGNORE
    wrong = counted & ((flat < 0) | (flat >= categories))
    if wrong.any():
        raise ValueError(
            f"expected labels from 0 to {categories - 1} or {IGNORE}, got {int(flat[wrong][0])};"
            " map the labels to columns of the vocabulary"
        )
    found = torch.zeros(len(flat), categories + 1, dtype=torch.bool, device=labels.device)
    found.scatter_(1, flat.masked_fill(~counted, categories), True)
    return found[:, :categories]


def choose(
    true: Tensor,
    selected: Tensor,
    *,
    distractors: int = 0,
    pool: Tensor | None = None,
    most: int | None = None,
) -> Candidates:
    """Union of the true categories, those that selection names, and random others.

    Distractors show the network words that have nothing to do with the image, as a long vocabulary will.

    Args:
        true: (B, K) bool, the categories that are there; always chosen.
        selected: (B, K) bool, what selection gives.
        distractors: how many more names every image gets, as far as the pool has them.
        pool: (K,) or (B, K) bool, which names may be distractors; None: all. Leave out names that may well be
            there without a label, such as another set's word for the same thing.
        most: how many candidates an image has at most, unless more are true; distractors go first, then
            random selected ones.
    """
    draw = torch.rand(true.shape, device=true.device)
    drawable = torch.ones_like(true) if pool is None else pool.expand_as(true)
    drawable = drawable & ~true & ~selected  # (B, K)
    rank = (draw * drawable).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    drawn = drawable & (rank < distractors)
    importance = torch.where(true, 3.0, torch.where(selected, 2.0, drawn.float()))
    order = (importance + draw).argsort(dim=1, descending=True, stable=True)  # (B, K)
    count = (importance > 0).sum(1)  # (B,)
    if most is not None:
        count = torch.minimum(count, true.sum(1).clamp(min=most))
    width = max(int(count.max()), 1)
    columns = order[:, :width]
    mask = torch.arange(width, device=true.device) < count[:, None]  # (B, M)
    return Candidates(columns * mask, mask)


def elected(features: ImageFeatures, words: Tensor, known: Tensor, scale: float) -> Tensor:
    """The categories that each image can hold: DCP-CLIP's equations 1 to 5, as `steps/selection.py`, batched.

    Args:
        features: of B images.
        words: (K, D) unit, the vocabulary, each word the mean over its prompts.
        known: (B, K) bool, the categories that can be elected.
        scale: what cosines are multiplied with.

    Returns:
        (B, K) bool.
    """
    whole = (features.image @ words.T * scale).masked_fill(~known, -torch.inf).log_softmax(dim=1)  # (B, K)
    # The difference from 1 loses all digits where one takes nearly everything: sum up the others.
    top = whole.argmax(dim=1, keepdim=True)
    others = whole.scatter(1, top, -torch.inf).logsumexp(dim=1, keepdim=True)
    held_back = torch.log1p(-whole.exp()).scatter(1, top, others).clamp(min=-1e4)  # log(1 - S_i)
    votes = features.patches.flatten(1, 2) @ words.T * scale + held_back[:, None]  # (B, N, K)
    winners = votes.masked_fill(~known[:, None], -torch.inf).argmax(dim=2)  # (B, N)
    return torch.zeros_like(known).scatter_(1, winners, True) | (whole.exp() > THETA)


def targets(labels: Tensor, candidates: Candidates) -> tuple[Tensor, Tensor]:
    """The target of every pixel and candidate.

    Args:
        labels: (B, H, W) integer columns of the vocabulary, or IGNORE.
        candidates: of the same images.

    Returns:
        (B, M, H, W) bool, the pixel is of the category; False in padding.
        (B, H, W) bool, the pixel has a label.
    """
    columns = candidates.columns.masked_fill(~candidates.mask, -1)[:, :, None, None]
    counted = labels != IGNORE
    return (labels[:, None] == columns) & counted[:, None], counted


def shares(labels: Tensor, candidates: Candidates, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """`targets` at patch resolution: patches are of several categories, each to the share of its pixels.

    A cross entropy with these shares is that of all the patch's pixels, so a category too small to win a
    patch counts too.

    Args:
        labels: (B, H, W) integer columns of the vocabulary, or IGNORE.
        candidates: of the same images.
        grid: (h, w), how many patches.

    Returns:
        (B, M, h, w) float32, the category's share of the patch's labelled pixels.
        (B, h, w) float32, the share of the patch's pixels that have a label.
    """
    true, counted = targets(labels, candidates)
    known = F.adaptive_avg_pool2d(counted[:, None].float(), grid)  # (B, 1, h, w)
    part = F.adaptive_avg_pool2d(true.float(), grid)
    return part / known.clamp(min=1e-6), known[:, 0]
