"""Dynamic category selection on a device: as in selection.py, in shapes that do not depend on the frame."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ovs_ros.options import SegmenterOptions
from ovs_ros.steps.selection import held_back
from ovs_ros.steps.torch_words import DeviceWords


class Slots(NamedTuple):
    """The categories of a frame: m slots, of which the first M are filled.

    Attributes:
        rows: (m,) int64 ascending rows of the vocabulary; in empty slots 0.
        filled: (m,) bool.
        scores: (m,) float32 in [0, 1], as `Selection.scores`; in empty slots anything.
    """

    rows: Tensor
    filled: Tensor
    scores: Tensor


def everything(words: DeviceWords) -> Slots:
    """No selection: all categories, with score 1."""
    rows = torch.arange(words.categories, device=words.there.device)
    filled = words.there[: words.categories]
    return Slots(rows, filled, torch.ones_like(rows, dtype=torch.float32))


def select(
    patches: Tensor,
    image: Tensor,
    words: DeviceWords,
    scale: float,
    options: SegmenterOptions,
    pooling: Tensor | None,
) -> Slots:
    """The categories that an image can hold, in min(`options.max_categories`, capacity) slots.

    Args:
        patches: (n, D) float32 unit rows, those that the image covers.
        image: (D,) float32, unit norm.
        words: the vocabulary.
        scale: what cosines are multiplied with before a softmax.
        options: rule, top_n, suppression, theta, max_categories and shortlist count here.
        pooling: (cells, n), adds up the patches of each cell, where there are more categories than
            `options.shortlist`; None: all of them take part.
    """
    embeddings, there, count = words.embeddings, words.there, words.categories
    listed = torch.arange(count, device=there.device)
    if pooling is not None:
        parts = torch.cat((normalize(pooling @ patches, dim=1), image[None]))  # (p, D)
        listed = _nearest(parts, words, options.shortlist)
        taking_part = torch.cat((listed, torch.arange(count, len(there), device=there.device)))
        embeddings, there, count = embeddings[taking_part], there[taking_part], options.shortlist
    weights = (embeddings * scale).T  # (D, C)
    logits = (patches @ weights).masked_fill(~there, -torch.inf)  # (n, C)
    whole = (image @ weights).masked_fill(~there, -torch.inf).double().softmax(0)  # (C,) S_i
    if options.rule == "top_n":
        ballots = logits.topk(min(options.top_n, len(there)), dim=1).indices.flatten()
    else:
        ballots = (logits + held_back(whole, torch).float()).argmax(1)
    votes = torch.zeros_like(whole).scatter_add_(0, ballots, torch.ones_like(ballots, dtype=whole.dtype))
    elected = votes > 0
    if options.rule == "dcp":
        elected |= whole > options.theta
    elected = (elected & there)[:count]
    highest = logits.max(1, keepdim=True).values  # (n, 1)
    sums = (logits - highest).exp().sum(1, keepdim=True)
    scores = torch.maximum((logits - highest - sums.log()).amax(0).exp(), whole.float())[:count]
    rank = torch.where(elected, (votes[:count] + 1) * scores, -1)
    best = rank.sort(descending=True, stable=True).indices[: options.max_categories]  # (m,)
    places = torch.where(elected[best], best, count).sort().values
    filled = places < count
    places = torch.where(filled, places, 0)
    return Slots(torch.where(filled, listed[places], 0), filled, scores[places])


def _nearest(parts: Tensor, words: DeviceWords, count: int) -> Tensor:
    """(count,) ascending rows of the categories that come nearest to being the best of a part (p, D)."""
    cosines = parts @ words.embeddings[: words.categories].T  # (p, K)
    cosines = cosines.masked_fill(~words.there[: words.categories], -torch.inf)
    lacks = (cosines - cosines.max(1, keepdim=True).values).amax(0)  # (K,)
    return lacks.topk(count).indices.sort().values
