"""Layers that several parts share."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MASKED = -1e9
"""What is added to the scores of hidden keys: finite, so that where all are hidden the answer is a number."""


class Mlp(nn.Module):
    """The residual branch LayerNorm, linear, ReLU, linear, `ratio` times as wide inside; it starts as zero.

    ReLU, because over categories and patches GELU takes as long as the matrix products around it.
    """

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, ratio * width)
        self.narrow = zero(nn.Linear(ratio * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(…, width) to the same shape."""
        return self.narrow(F.relu(self.widen(self.norm(x))))


def zero(layer: nn.Linear) -> nn.Linear:
    """Set a layer's weights to zero: the residual branch that ends in it starts as zero."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def split_axis(x: Tensor, axis: int, *sizes: int) -> Tensor:
    """Split an axis into several; one of their sizes may be -1.

    The ONNX exporter writes what `Tensor.unflatten` gave for the example as if all grids were like it.
    """
    axis %= x.dim()
    return x.reshape(*x.shape[:axis], *sizes, *x.shape[axis + 1 :])


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(…, L, C) to (…, heads, L, C / heads)."""
    if heads == 1:
        return x.unsqueeze(-3)  # no copy
    return split_axis(x, -1, heads, -1).transpose(-2, -3)


def join_heads(x: Tensor) -> Tensor:
    """(…, heads, L, C) to (…, L, heads * C)."""
    if x.shape[-3] == 1:
        return x.squeeze(-3)  # no copy
    return x.transpose(-2, -3).flatten(-2)


def linear_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention at a cost linear in the length, with the feature map elu + 1.

    Katharopoulos et al., "Transformers are RNNs", ICML 2020, equation 5.

    Args:
        query: (…, L, C); key: (…, S, C); value: (…, S, E).
        mask: broadcasts with (…, S, 1); 1 for keys that may be seen, 0 for others; None: all may be seen.

    Returns:
        (…, L, E).
    """
    query, key = _elu_plus_one(query), _elu_plus_one(key)
    if mask is not None:
        key = key * mask
    sums = query @ key.sum(dim=-2).unsqueeze(-1)  # (…, L, 1)
    return query @ (key.transpose(-1, -2) @ value) / (sums + 1e-6)


def _elu_plus_one(x: Tensor) -> Tensor:
    # The sum of its two halves: half the time of ELU itself in ONNX Runtime.
    return x.clamp(min=0) + x.clamp(max=0).exp()


def float32_cosines(patches: Tensor, words: Tensor) -> Tensor:
    """Cosines in float32, under autocast too, because bfloat16 would not separate close words.

    Args:
        patches: (B, h, w, D) unit; words: (B, K, D) unit.

    Returns:
        (B, K, h, w).
    """
    batch, h, w, _ = patches.shape
    with torch.autocast(patches.device.type, enabled=False):
        cosines = words.float() @ patches.float().flatten(1, 2).transpose(1, 2)  # (B, K, h*w)
    return cosines.reshape(batch, -1, h, w)
