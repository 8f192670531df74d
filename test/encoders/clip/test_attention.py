import pytest
from clip_models import open_clip_or_skip, small_clip
from slow_clip import slow_affinities, slow_cosines, slow_given, slow_mixed, slow_patches, slow_pool

open_clip_or_skip()
import torch  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from ovs_ros.encoders.clip.attention import (  # noqa: E402
    LastLayer,
    affinity_weights,
    attend,
    cosines_within,
    feed,
    gaussian_window,
    pool,
)

GRIDS = [(4, 4), (2, 5), (6, 1)]
LIKE = torch.zeros(0)


@pytest.fixture(scope="module")
def block():
    clip, _ = small_clip(seed=3, ls_init_value=0.7)
    block = clip.visual.transformer.resblocks[-1]
    # As they are drawn, queries and keys are so small that all attention is nearly even.
    block.attn.in_proj_weight.mul_(4)
    torch.nn.init.normal_(block.attn.in_proj_bias, std=0.3, generator=torch.Generator().manual_seed(1))
    return block


def tokens_of(grid, batch, seed=0):
    return torch.randn(batch, 1 + grid[0] * grid[1], 64, generator=torch.Generator().manual_seed(seed))


def patches(block, tokens, variant, grid):
    layer = LastLayer(block, tokens)
    if variant == "naclip":
        return layer.naclip(gaussian_window(grid, LIKE))
    return layer.whole(layer.maskclip()) if variant == "dinoiser" else getattr(layer, variant)()


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("variant", ["plain", "maskclip", "dinoiser", "sclip", "clearclip", "naclip"])
def test_each_variant_is_its_formula(block, variant, grid, batch):
    tokens = tokens_of(grid, batch)
    expected = torch.stack([slow_patches(block, one, variant, grid) for one in tokens])
    torch.testing.assert_close(patches(block, tokens, variant, grid).double(), expected, atol=1e-5, rtol=1e-5)


def test_a_block_in_two_halves_is_open_clips_own(block):
    tokens = tokens_of((4, 4), 2)
    torch.testing.assert_close(feed(block, attend(block, tokens)), block(tokens), atol=1e-6, rtol=1e-5)


def test_class_token_is_that_of_the_whole_block(block):
    tokens = tokens_of((2, 5), 2)
    torch.testing.assert_close(
        LastLayer(block, tokens).class_token(), block(tokens)[:, 0], atol=1e-6, rtol=1e-5
    )


def test_naclip_with_a_wide_gaussian_is_key_key_attention_among_patches(block):
    tokens = tokens_of((3, 4), 1)
    wide = gaussian_window((3, 4), LIKE, sigma=1e4)
    # So wide a Gaussian adds 1 to every patch and nothing to the class token.
    assert torch.allclose(wide[:, 1:], torch.ones(12, 12)) and not wide[:, 0].any()
    keys = LastLayer(block, tokens).key[0].double()  # (heads, 13, d)
    scores = keys @ keys.mT / keys.shape[-1] ** 0.5
    scores[:, :, 1:] += 1
    values = LastLayer(block, tokens).value[0].double()
    joined = (scores.softmax(-1) @ values)[:, 1:].transpose(0, 1).flatten(1)
    expected = block.ls_1(block.attn.out_proj(joined.float()))
    torch.testing.assert_close(LastLayer(block, tokens).naclip(wide)[0], expected, atol=1e-5, rtol=1e-5)


def test_naclip_with_a_narrow_gaussian_favours_the_patch_itself(block):
    window = gaussian_window((3, 4), LIKE, sigma=1e-3)
    assert torch.equal(window[:, 1:], torch.eye(12)) and not window[:, 0].any()


def test_gaussian_depends_on_the_distance_alone():
    window = gaussian_window((5, 7), LIKE)[:, 1:].view(5, 7, 5, 7)
    assert torch.equal(window.permute(2, 3, 0, 1), window)
    torch.testing.assert_close(window[:-1, :-1, :-1, :-1], window[1:, 1:, 1:, 1:])
    assert torch.equal(window, window.flip(0, 1, 2, 3))


def test_rows_of_the_window_begin_where_fused_kernels_read_them():
    for grid in GRIDS:
        assert gaussian_window(grid, LIKE).stride(0) % 16 == 0


@pytest.mark.parametrize("variant", ["plain", "maskclip", "dinoiser", "sclip", "clearclip"])
def test_variants_without_places_do_not_see_the_order_of_patches(block, variant):
    tokens = tokens_of((3, 4), 2)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    shuffled = torch.cat([tokens[:, :1], tokens[:, 1:][:, order]], 1)
    expected = patches(block, tokens, variant, (3, 4))[:, order]
    torch.testing.assert_close(patches(block, shuffled, variant, (3, 4)), expected, atol=1e-5, rtol=1e-5)


def test_naclip_sees_the_order_of_patches_but_not_a_mirror(block):
    tokens = tokens_of((3, 4), 1)
    laid = tokens[:, 1:].unflatten(1, (3, 4))
    expected = patches(block, tokens, "naclip", (3, 4)).unflatten(1, (3, 4)).flip(2).flatten(1, 2)
    mirrored = torch.cat([tokens[:, :1], laid.flip(2).flatten(1, 2)], 1)
    torch.testing.assert_close(patches(block, mirrored, "naclip", (3, 4)), expected, atol=1e-5, rtol=1e-5)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    shuffled = torch.cat([tokens[:, :1], tokens[:, 1:][:, order]], 1)
    moved = patches(block, tokens, "naclip", (3, 4))[:, order]
    assert not torch.allclose(patches(block, shuffled, "naclip", (3, 4)), moved, atol=1e-4)


@pytest.mark.parametrize("grid", GRIDS)
def test_affinities_are_proxyclips(block, grid):
    tokens = tokens_of(grid, 2)
    features = torch.randn(2, grid[0] * grid[1], 24, generator=torch.Generator().manual_seed(5)) + 0.4
    cosines = cosines_within(features)
    weights = affinity_weights(cosines, beta=1.2, gamma=3.0)
    seen = LastLayer(block, tokens).given(weights)
    mixed = LastLayer(block, tokens).mixed(weights)
    for index in range(2):
        slow = slow_affinities(slow_cosines(features[index]), 1.2, 3.0)
        torch.testing.assert_close(weights[index], torch.tensor(slow), atol=1e-5, rtol=1e-5)
        expected = slow_given(block, tokens[index], slow)
        torch.testing.assert_close(seen[index].double(), expected, atol=1e-5, rtol=1e-5)
        expected = slow_mixed(block, tokens[index], slow)
        torch.testing.assert_close(mixed[index].double(), expected, atol=1e-5, rtol=1e-5)


def test_affinities_of_a_uniform_image_leave_each_patch_itself():
    weights = affinity_weights(torch.ones(1, 6, 6), beta=1.2, gamma=3.0)
    assert torch.equal(weights[0], torch.eye(6))


def test_affinities_of_one_image_do_not_see_the_other():
    cosines = cosines_within(torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(2)))
    alone = affinity_weights(cosines[:1], beta=1.2, gamma=3.0)
    torch.testing.assert_close(affinity_weights(cosines, beta=1.2, gamma=3.0)[:1], alone)


def test_pooling_is_the_weighted_mean_of_those_alike():
    generator = torch.Generator().manual_seed(4)
    features = torch.randn(2, 9, 6, generator=generator)
    cosines = cosines_within(torch.randn(2, 9, 3, generator=generator))
    pooled = pool(features, cosines, least=0.2)
    for index in range(2):
        expected = slow_pool(features[index], cosines[index].double(), 0.2)
        torch.testing.assert_close(pooled[index].double(), expected, atol=1e-5, rtol=1e-5)


def test_cosines_are_exact_under_autocast():
    features = torch.randn(1, 7, 4, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = cosines_within(features)
    assert torch.equal(mixed, cosines_within(features))


def test_cosines_have_themselves_at_one():
    cosines = cosines_within(torch.randn(1, 7, 4, dtype=torch.bfloat16))
    assert cosines.dtype == torch.float32
    torch.testing.assert_close(cosines.diagonal(dim1=1, dim2=2), torch.ones(1, 7))
    assert F.relu(cosines - 1).max() < 1e-6
