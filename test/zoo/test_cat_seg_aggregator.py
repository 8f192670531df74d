"""Both attentions of CAT-Seg's aggregation, against slow references of their formulas."""

from typing import Any

import pytest
from clip_models import open_clip_or_skip

open_clip_or_skip()

import torch  # noqa: E402
from cat_seg_checkpoint import SMALL  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from ovs_ros.zoo.cat_seg_aggregator import (  # noqa: E402
    AggregatorSizes,
    ClassAttention,
    DoubleConv,  # noqa: E402
    SwinBlock,
)

SIZES = SMALL.aggregator


def random_module(module: Any) -> Any:
    generator = torch.Generator().manual_seed(3)
    for parameter in module.parameters():
        parameter.requires_grad_(False).copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def random(*shape: int) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(4))


def slow_swin(block: Any, x: Any, seen: Any, side: int, shift: int) -> Any:
    """Attention over all patches, masked: who sees whom is who shares a window of the shifted tiling."""
    m, h, w, channels = x.shape
    y, column = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    tile = torch.stack(((y - shift) // side, (column - shift) // side), dim=-1).reshape(-1, 2)
    together = (tile[:, None] == tile[None]).all(dim=-1)  # (n, n)
    heads, d = block.attn.heads, channels // block.attn.heads
    out = torch.empty_like(x)
    for word in range(m):
        normed = block.norm1(x[word]).reshape(-1, channels)
        guided = torch.cat((normed, seen.reshape(h * w, -1)), dim=1)
        q, k, v = block.attn.q(guided), block.attn.k(guided), block.attn.v(normed)
        attended = []
        for head in range(heads):
            part = slice(head * d, (head + 1) * d)
            logits = q[:, part] @ k[:, part].T / d**0.5
            attended.append(logits.masked_fill(~together, -torch.inf).softmax(dim=1) @ v[:, part])
        z = x[word] + block.attn.proj(torch.cat(attended, dim=1)).reshape(h, w, channels)
        hidden = F.gelu(block.mlp.fc1(block.norm2(z)))
        out[word] = z + block.mlp.fc2(hidden)
    return out


@pytest.mark.parametrize("grid", [(6, 6), (9, 6), (7, 5), (4, 10), (3, 3), (2, 8), (3, 7)])
@pytest.mark.parametrize("shifted", [False, True])
def test_windows_see_what_they_should_on_any_grid(grid: tuple[int, int], shifted: bool) -> None:
    block = random_module(SwinBlock(SIZES, shifted))
    x, seen = random(2, *grid, 32), random(*grid, 16)
    # Windows of 3 are shifted by 1, where the grid is larger than one window both ways.
    shift = 1 if shifted and min(grid) > 3 else 0
    torch.testing.assert_close(block(x, seen), slow_swin(block, x, seen, 3, shift), atol=1e-4, rtol=1e-4)


def test_shifted_windows_of_12_on_the_grid_of_24() -> None:
    sizes = AggregatorSizes(hidden=16, guidance=8)
    block = random_module(SwinBlock(sizes, True))
    x, seen = random(1, 24, 24, 16), random(24, 24, 8)
    torch.testing.assert_close(block(x, seen), slow_swin(block, x, seen, 12, 6), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("count", [1, 7, 16, 20])
def test_words_attend_to_each_other_and_to_padding(count: int) -> None:
    attention = random_module(ClassAttention(SIZES))
    x, said = random(count, 2, 3, 32), random(count, 16)
    out = attention(x, said, torch.ones(count, dtype=torch.bool))
    padded = max(count, 16)
    inner, heads, d = attention.attention, 4, 8
    for y in range(2):
        for column in range(3):
            tokens = torch.cat((x[:, y, column], attention.padding_tokens[0].expand(padded - count, 32)))
            guides = torch.cat((said, attention.padding_guidance[0].expand(padded - count, 16)))
            normed = attention.norm1(tokens)
            both = torch.cat((normed, guides), dim=1)
            q, k, v = F.elu(inner.q(both)) + 1, F.elu(inner.k(both)) + 1, inner.v(normed)
            attended = []
            for head in range(heads):
                part = slice(head * d, (head + 1) * d)
                weights = q[:, part] @ k[:, part].T  # (padded, padded)
                attended.append(weights / weights.sum(dim=1, keepdim=True) @ v[:, part])
            z = tokens + torch.cat(attended, dim=1)
            z = z + attention.MLP(attention.norm2(z))
            expected = x[:, y, column] + z[:count]
            torch.testing.assert_close(out[:, y, column], expected, atol=1e-4, rtol=1e-4)


def test_the_skip_of_a_convolution_is_as_if_joined() -> None:
    convolution = random_module(DoubleConv(12, 16))
    x, skip = random(3, 8, 5, 4), random(1, 4, 5, 4)
    joined = convolution.double_conv(torch.cat((x, skip.expand(3, -1, -1, -1)), dim=1))
    torch.testing.assert_close(convolution(x, skip), joined, atol=1e-4, rtol=1e-4)
