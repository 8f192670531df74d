"""DINOv2 ViT-S/14 in torch: what `image_encoder.onnx` is written from, and read back into."""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ovs_ros.geometry.resample import resample_grid
from ovs_ros.runtime.quantisation import quantise_products, read_weights
from ovs_ros.runtime.torch_to_onnx import attention, write_free

DEPTH, WIDTH, HEADS, PATCH = 12, 384, 6, 14
LAYERS = (3, 6, 9, 12)
"""The layers, counted from 1, whose tokens leave the encoder."""
TUNED = 3
"""How many blocks at the end are tuned."""
EPSILON = 1e-6


class DinoV2(nn.Module):
    """DINOv2 ViT-S/14. Its weights are no parameters to train.

    Layer scales are folded into the blocks, ImageNet's normalisation into `patch`, and the class token's
    position into `cls`. The final normalisation is `last_norm` after layer 12, where tuning changes it, and
    `norm` after the earlier layers.
    """

    def __init__(self, state: Mapping[str, NDArray[np.float32]], positions: NDArray[np.float32]) -> None:
        """Load weights.

        Args:
            state: array by name, as `state_dict` has them.
            positions: (37, 37, 384), the patch grid's position table.
        """
        super().__init__()
        self.patch = nn.Conv2d(3, WIDTH, PATCH, stride=PATCH)
        self.register_buffer("cls", torch.zeros(1, 1, WIDTH))
        self.blocks = nn.ModuleList(DinoBlock() for _ in range(DEPTH))
        self.norm, self.last_norm = (nn.LayerNorm(WIDTH, eps=EPSILON) for _ in range(2))
        self.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in state.items()})
        self.positions = positions
        self._resampled: dict[tuple[int, int], Tensor] = {}
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        """Encode RGB images (B, 3, 14 h, 14 w), float from 0 to 255.

        Returns:
            (B, 1 + h*w, 1536): the normalised tokens of `LAYERS` side by side, the class token first.
        """
        grid = (images.shape[2] // PATCH, images.shape[3] // PATCH)
        if grid not in self._resampled:
            self._resampled[grid] = torch.from_numpy(resample_grid(self.positions, *grid)).flatten(0, 1)
        return torch.cat(self.layers(images, self._resampled[grid].to(images.device))[0], dim=-1)

    def layers(self, images: Tensor, positions: Tensor, depth: int = DEPTH) -> tuple[list[Tensor], Tensor]:
        """The tokens between the blocks.

        Args:
            images: (B, 3, 14 h, 14 w) RGB, float from 0 to 255.
            positions: (h*w, 384), the position table resampled to the grid.
            depth: how many blocks to run.

        Returns:
            The normalised tokens (B, 1 + h*w, 384) of those `LAYERS` that are reached, and the tokens after
            the last block that was run.
        """
        x = self.patch(images).flatten(2).transpose(1, 2) + positions
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], dim=1)  # (B, 1 + N, 384)
        taken = []
        for index, block in enumerate(self.blocks[:depth], start=1):
            x = block(x)
            if index in LAYERS:
                taken.append((self.last_norm if index == DEPTH else self.norm)(x))
        return taken, x


class DinoBlock(nn.Module):
    """One transformer block; layer scales are folded into its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(WIDTH, eps=EPSILON) for _ in range(2))
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, 384) to the same shape."""
        query, key, value = self.qkv(self.norm1(x)).split(WIDTH, dim=-1)
        x = x + self.out(attention(query, key, value, HEADS))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Tail(nn.Module):
    """Copies of the last blocks and the final normalisation, to be trained."""

    def __init__(self, encoder: DinoV2) -> None:
        super().__init__()
        self.blocks = deepcopy(encoder.blocks[-TUNED:])
        self.norm = deepcopy(encoder.last_norm)
        self.requires_grad_()

    def forward(self, front: Tensor) -> Tensor:
        """(B, 1 + N, 1536) of the blocks before to the tokens of the layers 3, 6, 9 and 12."""
        x = front[..., 3 * WIDTH :]
        for block in self.blocks:
            x = block(x)
        return torch.cat([front[..., : 3 * WIDTH], self.norm(x)], dim=-1)


def with_tail(encoder: DinoV2, tail: Mapping[str, Tensor]) -> DinoV2:
    """A copy of the encoder with tuned last blocks.

    Args:
        encoder: the original.
        tail: what `Tail.state_dict` gives.
    """
    tuned, part = deepcopy(encoder), Tail(encoder)
    part.load_state_dict(tail)
    tuned.blocks = nn.ModuleList([*tuned.blocks[:-TUNED], *part.blocks])
    tuned.last_norm = part.norm
    return tuned.requires_grad_(False)


class _Graph(nn.Module):
    """The encoder for one image as bytes."""

    def __init__(self, encoder: DinoV2, depth: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.depth = depth

    def forward(self, image: Tensor, positions: Tensor) -> Tensor:
        taken, last = self.encoder.layers(image.permute(2, 0, 1)[None].float(), positions, self.depth)
        return torch.cat(taken if self.depth == DEPTH else [*taken, last], dim=-1)[0]


def write_encoder(encoder: DinoV2, path: Path, *, depth: int = DEPTH, int8: bool = True) -> None:
    """Write the encoder, or its first blocks for training that changes the others, as ONNX.

    Inputs: `image` (h*14, w*14, 3) uint8 RGB; `positions` (h*w, 384) float32, the position table resampled
    to the grid. Output: `tokens` (1 + h*w, n*384) float32, the class token first, the normalised tokens of
    `LAYERS` side by side; with fewer blocks than all, the last block's tokens as they are come after those.

    Args:
        encoder: the whole.
        path: gets the file; a temporary one with weights in float32 is written there first.
        depth: how many blocks to write.
        int8: quantise the linear layers; the rest stays in float32.
    """
    rows, columns = 2, 3
    arguments = (
        torch.zeros((rows * PATCH, columns * PATCH, 3), dtype=torch.uint8),
        torch.zeros(rows * columns, WIDTH),
    )
    free = {
        "image": {0: "height", 1: "width"},
        "positions": {0: "patches"},
        "tokens": {0: "tokens"},
    }
    write_free(_Graph(encoder, depth).eval(), arguments, path, ["image", "positions"], ["tokens"], free)
    if int8:
        onnx.save(quantise_products(onnx.load(path)), path)


def read_encoder(models: Path) -> DinoV2:
    """The encoder of `image_encoder.onnx` and `position_table.npy`; weights in int8 are dequantised.

    The shipped encoder's last blocks are tuned, so a network is to be trained over these weights and not over
    the original's.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: `write_encoder` did not write the graph.
    """
    weights = read_weights(models / "image_encoder.onnx")
    state = {
        name.removeprefix("encoder."): value for name, value in weights.items() if name.startswith("encoder.")
    }
    for part in ("weight", "bias"):  # What is not tuned is stored once.
        state.setdefault(f"last_norm.{part}", state.get(f"norm.{part}", np.zeros(0, np.float32)))
    try:
        return DinoV2(state, np.load(models / "position_table.npy", allow_pickle=False))
    except RuntimeError as error:
        raise ValueError(
            f"expected an encoder that 'ovs train' wrote in {models / 'image_encoder.onnx'}: {error}"
        ) from error
