"""Dense tokens of CAT-Seg's CLIP, against open_clip's own forward and a slow reference of the last block."""

from typing import Any

import pytest
from clip_models import open_clip_or_skip, small_clip

open_clip_or_skip()

import torch  # noqa: E402

from ovs_ros.encoders.clip.attention import embed_patches  # noqa: E402
from ovs_ros.encoders.clip.grid_cache import resampled_positions  # noqa: E402
from ovs_ros.zoo.cat_seg import ClipTokens, clip_tokens  # noqa: E402


def tower() -> tuple[Any, Any]:
    clip, _ = small_clip()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    for parameter in clip.visual.parameters():
        if parameter.ndim == 1:  # biases start at zero, which would hide a forgotten one
            parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
    return clip, images


def tokens_of(visual: Any, images: Any, levels: tuple[int, ...]) -> ClipTokens:
    return clip_tokens(visual, embed_patches(visual, images, visual.positional_embedding), (4, 4), levels)


def test_the_image_is_embedded_as_open_clip_does() -> None:
    clip, images = tower()
    tokens = tokens_of(clip.visual, images, ())
    torch.testing.assert_close(tokens.image, clip.encode_image(images), atol=1e-5, rtol=1e-5)


def test_the_last_block_is_the_value_path_on_the_cls_row() -> None:
    clip, images = tower()
    visual = clip.visual
    given: list[Any] = []
    visual.transformer.resblocks[2].register_forward_hook(lambda *call: given.append(call[2]))
    clip.encode_image(images)
    tokens = tokens_of(visual, images, (0, 2))
    block, x = visual.transformer.resblocks[3], given[0]
    for b in range(2):
        for place in range(16):
            normed = block.ln_1(x[b, 1 + place])
            value = block.attn.in_proj_weight[128:] @ normed + block.attn.in_proj_bias[128:]
            z = x[b, 0] + block.attn.out_proj.weight @ value + block.attn.out_proj.bias
            z = z + block.mlp(block.ln_2(z))
            expected = visual.ln_post(z) @ visual.proj
            y, column = divmod(place, 4)
            torch.testing.assert_close(tokens.patches[b, y, column], expected, atol=1e-5, rtol=1e-4)
            level = tokens.levels[1][b, :, y, column]
            torch.testing.assert_close(level, x[b, 1 + place], atol=1e-5, rtol=1e-4)
    assert tokens.levels[0].shape == (2, 64, 4, 4)
    assert not torch.allclose(tokens.levels[0], tokens.levels[1])


def test_positions_stay_on_their_own_grid_and_follow_another() -> None:
    ramp = torch.arange(4.0)
    table = torch.cat((torch.tensor([[9.0, 9.0]]), torch.cartesian_prod(ramp, ramp)))  # (17, 2) of (y, x)
    assert resampled_positions(table, (4, 4), (4, 4), antialias=False) is table
    resized = resampled_positions(table, (4, 4), (8, 12), antialias=False)
    assert resized.shape == (97, 2) and resized[0].tolist() == [9, 9]
    grid = resized[1:].reshape(8, 12, 2)
    assert (grid[1:-1].diff(dim=0)[..., 0] > 0).all() and (grid[:, 1:-1].diff(dim=1)[..., 1] > 0).all()
    assert grid[3:5, 0, 0].mean() == pytest.approx(1.5) and grid[0, 5:7, 1].mean() == pytest.approx(1.5)
