"""DINOv2 ViT-S/14 in torch, frozen, from the same weights as `image_encoder.onnx`."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovs_ros.geometry.resample import resample_grid
from ovs_ros.training.build_image_encoder import (
    EPSILON,
    HEADS,
    LAYERS,
    PATCH,
    WIDTH,
    Array,
    Block,
    DinoWeights,
    fold_normalisation,
)


@dataclass(frozen=True)
class DinoTokens:
    """What the encoder says of a batch.

    Attributes:
        cls: (B, 384) of each of the layers 3, 6, 9 and 12: the class token, normalised.
        patches: (B, h, w, 384) of each of these layers, normalised.
        attention: (B, h, w, 6), how much the class token attends to each patch in the last block, by head;
            its sum over the grid is 1.
    """

    cls: tuple[Tensor, ...]
    patches: tuple[Tensor, ...]
    attention: Tensor


class DinoV2(nn.Module):
    """DINOv2 ViT-S/14. Its weights are no parameters to train."""

    def __init__(self, weights: DinoWeights) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, WIDTH, PATCH, stride=PATCH)
        kernel, bias = fold_normalisation(*weights.patch)
        _set(self.patch, kernel, bias)
        self.register_buffer("cls", torch.from_numpy(weights.cls.copy()))  # (1, 384)
        self.blocks = nn.ModuleList(DinoBlock(block) for block in weights.blocks)
        self.norm = nn.LayerNorm(WIDTH, eps=EPSILON)
        _set(self.norm, *weights.norm)
        self.last_norm = nn.LayerNorm(WIDTH, eps=EPSILON)
        _set(self.last_norm, *(weights.last_norm or weights.norm))
        self._table = weights.positions
        self._positions: dict[tuple[int, int], Tensor] = {}
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> DinoTokens:
        """Encode RGB images (B, 3, 14 h, 14 w), float from 0 to 255."""
        x = self.patch(images)  # (B, 384, h, w)
        grid = (x.shape[2], x.shape[3])
        x = x.flatten(2).transpose(1, 2) + self._resampled(grid, x.device)
        x = torch.cat([self.cls.expand(len(x), 1, -1).to(x.dtype), x], dim=1)  # (B, 1 + N, 384)
        taken = []
        for index, block in enumerate(self.blocks, start=1):
            if index == len(self.blocks):
                attention = block.class_attention(x)  # (B, heads, N)
            x = block(x)
            if index in LAYERS:
                taken.append((self.last_norm if index == len(self.blocks) else self.norm)(x))
        return DinoTokens(
            cls=tuple(t[:, 0] for t in taken),
            patches=tuple(t[:, 1:].unflatten(1, grid) for t in taken),
            attention=attention.transpose(1, 2).unflatten(1, grid),
        )

    def _resampled(self, grid: tuple[int, int], device: torch.device) -> Tensor:
        """The position table at a grid's resolution, (h * w, 384)."""
        if grid not in self._positions:
            table = resample_grid(self._table, *grid)
            self._positions[grid] = torch.from_numpy(table).flatten(0, 1)
        return self._positions[grid].to(device)


class DinoBlock(nn.Module):
    """One transformer block; layer scales are folded into its weights."""

    def __init__(self, weights: Block) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(WIDTH, eps=EPSILON) for _ in range(2))
        _set(self.norm1, *weights.norm1)
        _set(self.norm2, *weights.norm2)
        self.qkv, self.out, self.fc1, self.fc2 = (
            _linear(*pair) for pair in (weights.qkv, weights.attention_out, weights.fc1, weights.fc2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, 384) to the same shape."""
        query, key, value = self._heads(x)
        mixed = F.scaled_dot_product_attention(query, key, value)  # (B, heads, N, 64)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))

    def class_attention(self, x: Tensor) -> Tensor:
        """How much the class token attends to each patch, (B, heads, N - 1), with sum 1 over the patches."""
        query, key, _ = self._heads(x)
        scores = query[:, :, :1] @ key[:, :, 1:].transpose(2, 3) / query.shape[3] ** 0.5
        return scores[:, :, 0].float().softmax(dim=-1)

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value, each (B, heads, N, 64)."""
        query, key, value = self.qkv(self.norm1(x)).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        return query, key, value


def _linear(weight: Array, bias: Array) -> nn.Linear:
    """A layer from a (inputs, outputs) matrix."""
    layer = nn.Linear(*weight.shape)
    _set(layer, weight.T, bias)
    return layer


def _set(layer: nn.Module, weight: Array, bias: Array) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight.copy()))
        layer.bias.copy_(torch.from_numpy(bias.copy()))
