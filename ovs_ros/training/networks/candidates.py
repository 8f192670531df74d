"""The candidate categories of each image in a training batch, and their targets.

At run time a frame is decided among the few categories that selection names. In training the categories that
truly are there must be among them, otherwise they would have no channel: they are added. Images
of a batch have candidates of their own, padded to one number with a mask.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORE = 255
"""Label of pixels that no loss counts."""


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


def present(labels: Tensor, categories: int, *, ignore: int = IGNORE) -> Tensor:
    """The true categories of each image.

    Args:
        labels: (B, H, W) integer columns of the vocabulary, or `ignore`.
        categories: K, the size of the vocabulary.
        ignore: label of pixels that do not count.

    Returns:
        (B, K) bool.

    Raises:
        ValueError: a label is neither a column nor `ignore`.
    """
    flat = labels.flatten(1).long()  # (B, H * W)
    counted = flat != ignore
    wrong = counted & ((flat < 0) | (flat >= categories))
    if wrong.any():
        raise ValueError(
            f"expected labels from 0 to {categories - 1} or {ignore}, got {int(flat[wrong][0])};"
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
    width: int | None = None,
    generator: torch.Generator | None = None,
) -> Candidates:
    """Union of the true categories, those that selection names, and random others.

    Distractors show the network words that have nothing to do with the image, as a long vocabulary will.

    Args:
        true: (B, K) bool, the categories that are there; always chosen.
        selected: (B, K) bool, what selection gives.
        distractors: how many more names every image gets, as far as the pool has them.
        pool: (K,) or (B, K) bool, which names may be distractors; None: all. Leave out names that may well be
            there without a label, such as another set's word for the same thing.
        most: how many candidates an image has at most; distractors go first, then random selected ones.
        width: M, to pad to; None: the most that an image of the batch has.
        generator: draws the distractors; of the device of `true`.

    Raises:
        ValueError: an image has more true categories than `most`, or more candidates than `width`.
    """
    draw = torch.rand(true.shape, generator=generator, device=true.device)
    drawable = torch.ones_like(true) if pool is None else pool.expand_as(true)
    drawable = drawable & ~true & ~selected  # (B, K)
    rank = (draw * drawable).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    drawn = drawable & (rank < distractors)
    importance = torch.where(true, 3.0, torch.where(selected, 2.0, drawn.float()))
    order = (importance + draw).argsort(dim=1, descending=True, stable=True)  # (B, K)
    limit = true.shape[1] if most is None else most
    if int(true.sum(1).max()) > limit:
        raise ValueError(
            f"expected at most {limit} true categories in an image, got {int(true.sum(1).max())}; allow more"
        )
    count = (importance > 0).sum(1).clamp(max=limit)  # (B,)
    longest = int(count.max())
    if width is not None and longest > width:
        raise ValueError(
            f"expected at most {width} candidates in an image, got {longest}; limit them by most"
        )
    width = max(longest, 1) if width is None else width
    columns = F.pad(order, (0, max(width - order.shape[1], 0)))[:, :width]
    mask = torch.arange(width, device=true.device) < count[:, None]  # (B, M)
    return Candidates(columns * mask, mask)


def targets(labels: Tensor, candidates: Candidates, *, ignore: int = IGNORE) -> tuple[Tensor, Tensor]:
    """The target of every pixel and candidate.

    Args:
        labels: (B, H, W) integer columns of the vocabulary, or `ignore`.
        candidates: of the same images.
        ignore: label of pixels that do not count.

    Returns:
        (B, M, H, W) bool, the pixel is of the category; False in padding.
        (B, H, W) bool, the pixel has a label.
    """
    columns = candidates.columns.masked_fill(~candidates.mask, -1)[:, :, None, None]
    counted = labels != ignore
    return (labels[:, None] == columns) & counted[:, None], counted


def shares(
    labels: Tensor, candidates: Candidates, grid: tuple[int, int], *, ignore: int = IGNORE
) -> tuple[Tensor, Tensor]:
    """`targets` at patch resolution: patches are of several categories, each to the share of its pixels.

    A cross entropy with these shares is that of all the patch's pixels, so a category too small to win a
    patch counts too.

    Args:
        labels: (B, H, W) integer columns of the vocabulary, or `ignore`.
        candidates: of the same images.
        grid: (h, w), how many patches.
        ignore: label of pixels that do not count.

    Returns:
        (B, M, h, w) float32, the category's share of the patch's labelled pixels.
        (B, h, w) float32, the share of the patch's pixels that have a label.
    """
    true, counted = targets(labels, candidates, ignore=ignore)
    known = F.adaptive_avg_pool2d(counted[:, None].float(), grid)  # (B, 1, h, w)
    part = F.adaptive_avg_pool2d(true.float(), grid)
    return part / known.clamp(min=1e-6), known[:, 0]
