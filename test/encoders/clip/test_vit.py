from copy import deepcopy
from functools import cache

import pytest
from clip_models import open_clip_or_skip, small_clip
from slow_clip import slow_affinities, slow_cosines, slow_given, slow_patches, slow_pool

open_clip = open_clip_or_skip()
import torch  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from ovs_ros.encoders.clip.dinoiser import DinoiserHead  # noqa: E402
from ovs_ros.encoders.clip.grid_cache import resampled_positions  # noqa: E402
from ovs_ros.encoders.clip.self_calibration import calibrate  # noqa: E402
from ovs_ros.encoders.clip.vit import OpenClipViT  # noqa: E402

VARIANTS = ["plain", "maskclip", "sclip", "clearclip", "naclip", "proxyclip", "scclip", "dinoiser"]
GRIDS = [(4, 4), (3, 7), (6, 2)]
TOWERS = {
    "usual": {},
    "layer scale": {"ls_init_value": 0.3},
    "no first normalisation": {"no_ln_pre": True},
    "normalised after pooling": {"final_ln_after_pool": True},
    "mean over patches": {"pool_type": "avg"},
    "CLIPA": {"pool_type": "avg", "final_ln_after_pool": True, "no_ln_pre": True},
    "sines": {"pos_embed_type": "sin_cos_2d"},
}


class ColourProxy:
    """Sees each patch's pixels themselves, so that a test can tell what image it was given."""

    name = "colours"
    least = most = 0.0

    def features(self, images, grid):
        self.least, self.most = float(images.min()), float(images.max())
        return F.adaptive_avg_pool2d(images.float(), grid).flatten(2).mT - 0.5


def make_heads():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        return DinoiserHead(64).requires_grad_(False)


@cache
def drawn(visual):
    """A small CLIP, drawn once; with weights so large that attention is not nearly even."""
    clip, tokenizer = small_clip(seed=2, **dict(visual))
    for block in clip.visual.transformer.resblocks:
        block.attn.in_proj_weight.mul_(3)
    return clip, tokenizer


def make_model(attention="naclip", visual=None, **others):
    clip, tokenizer = drawn(tuple((visual or {}).items()))
    clip = deepcopy(clip)
    if attention == "proxyclip":
        others.setdefault("proxy", ColourProxy())
    if attention == "dinoiser":
        others.setdefault("heads", make_heads())
    return OpenClipViT(clip, name="small", attention=attention, tokenizer=tokenizer, **others)


def images_of(grid, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, grid[0] * 16, grid[1] * 16, generator=generator)


@pytest.mark.parametrize("tower", TOWERS)
def test_plain_is_open_clips_own_forward(tower):
    model = make_model("plain", visual=TOWERS[tower])
    tower = model.clip.visual
    images = images_of((4, 4), 2)
    features = model.dense(images)
    torch.testing.assert_close(
        features.image, model.clip.encode_image(images, normalize=True), atol=1e-5, rtol=0
    )
    tower.output_tokens = True
    tokens = tower(images)[1]  # (2, 16, 64)
    if tower.final_ln_after_pool:
        tokens = tower.ln_post(tokens)
    expected = F.normalize(tokens @ tower.proj, dim=-1).view(2, 4, 4, 32)
    torch.testing.assert_close(features.patches, expected, atol=1e-5, rtol=0)


def test_plain_is_open_clips_own_where_blocks_take_tokens_first_and_gelu_is_quick():
    model = make_model("plain")
    tower = model.clip.visual
    quick = open_clip.transformer.QuickGELU
    turned = open_clip.transformer.Transformer(64, 4, 4, act_layer=quick, batch_first=False)
    turned.load_state_dict(tower.transformer.state_dict())
    tower.transformer = turned
    images = images_of((4, 4), 2)
    expected = model.clip.encode_image(images, normalize=True)
    torch.testing.assert_close(model.dense(images).image, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_image_embedding_is_clips_own_whatever_the_patches_see(variant):
    model = make_model(variant)
    images = images_of((4, 4), 2)
    expected = model.clip.encode_image(images, normalize=True)
    torch.testing.assert_close(model.dense(images).image, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("variant", ["maskclip", "sclip", "clearclip", "naclip"])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("batch", [1, 2])
def test_patches_follow_the_variants_formula_on_any_grid(variant, grid, batch):
    model = make_model(variant)
    images = images_of(grid, batch)
    tokens = through_blocks(model, images, grid)[-1]
    expected = [slow_patches(model.clip.visual.transformer.resblocks[-1], t, variant, grid) for t in tokens]
    assert_patches(model, images, grid, torch.stack(expected))


@pytest.mark.parametrize("grid", GRIDS)
def test_proxyclip_sees_the_image_before_it_was_normalised(grid):
    proxy = ColourProxy()
    model = make_model("proxyclip", proxy=proxy)
    colours = torch.rand(2, 3, grid[0] * 16, grid[1] * 16, generator=torch.Generator().manual_seed(0))
    colours[:, :, 0, 0], colours[:, :, 0, 1] = 0, 1
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (model.mean, model.std))
    images = (colours - mean) / std
    tokens = through_blocks(model, images, grid)[-1]
    proxied = F.adaptive_avg_pool2d(colours, grid).flatten(2).mT - 0.5
    block = model.clip.visual.transformer.resblocks[-1]
    expected = [
        slow_given(block, token, slow_affinities(slow_cosines(one), 1.2, 3.0))
        for token, one in zip(tokens, proxied, strict=True)
    ]
    assert_patches(model, images, grid, torch.stack(expected))
    assert proxy.least == pytest.approx(0, abs=1e-6)
    assert proxy.most == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("grid", GRIDS)
def test_dinoiser_pools_maskclips_patches_with_residual_and_mlp(grid):
    model = make_model("dinoiser")
    images = images_of(grid, 2)
    outputs = through_blocks(model, images, grid)
    tower = model.clip.visual
    blocks = tower.transformer.resblocks
    # The third block from the end, opened: its input plus its attention, normalised.
    normed = blocks[-3].ln_1(outputs[-3])
    hidden = blocks[-3].ln_2(outputs[-3] + blocks[-3].attn(normed, normed, normed)[0])
    hidden = hidden[:, 1:].unflatten(1, grid)
    seen = model.heads.obj_proj(hidden.permute(0, 3, 1, 2)).flatten(2).mT
    features = model.dense(images)
    for index in range(2):
        patches = slow_patches(blocks[-1], outputs[-1][index], "dinoiser", grid).float()
        projected = tower.ln_post(patches) @ tower.proj
        expected = F.normalize(slow_pool(projected, slow_cosines(seen[index]), 0.2), dim=-1)
        torch.testing.assert_close(
            features.patches[index].flatten(0, 1).double(), expected, atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("grid", GRIDS)
def test_scclip_is_told_every_block(grid):
    model = make_model("scclip")
    images = images_of(grid, 2)
    outputs = through_blocks(model, images, grid)
    block = model.clip.visual.transformer.resblocks[-1]
    assert_patches(model, images, grid, calibrate(block, outputs[1:], grid))


def test_positions_of_the_native_grid_are_the_table():
    table = make_model().clip.visual.positional_embedding
    assert resampled_positions(table, (4, 4), (4, 4), antialias=True) is table


def test_positions_are_resampled_row_by_row():
    """A table that grows from left to right alone still does so on another grid."""
    table = torch.randn(17, 8)
    table[1:] = torch.arange(4.0).repeat(4)[:, None]
    resampled = resampled_positions(table, (4, 4), (3, 8), antialias=True)
    laid = resampled[1:, 0].view(3, 8)
    assert torch.equal(resampled[0], table[0])
    assert (laid.diff(dim=1) > 0).all()
    torch.testing.assert_close(laid[0], laid[2])
    expected = F.interpolate(
        torch.arange(4.0).repeat(4).view(1, 1, 4, 4), (3, 8), mode="bicubic", antialias=True
    )
    torch.testing.assert_close(laid, expected[0, 0])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_embeddings_are_finite_and_of_unit_norm(variant, dtype):
    model = make_model(variant).to(dtype)
    with torch.inference_mode():
        features = model.dense(images_of((5, 7), 2).to(dtype))
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for embeddings in (features.patches, features.image):
        assert embeddings.dtype == dtype
        norms = embeddings.float().norm(dim=-1)
        torch.testing.assert_close(norms, torch.ones_like(norms), atol=tolerance, rtol=0)
    assert features.patches.shape == (2, 5, 7, 32)
    assert features.image.shape == (2, 32)


@pytest.mark.parametrize("variant", VARIANTS)
def test_mixed_precision_gives_nearly_the_same(variant):
    model = make_model(variant)
    images = images_of((5, 7), 2)
    exact = model.dense(images)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        mixed = model.dense(images)
    assert F.cosine_similarity(mixed.image.float(), exact.image, dim=-1).min() > 0.995
    assert F.cosine_similarity(mixed.patches.float(), exact.patches, dim=-1).median() > 0.98


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_image_does_not_see_the_others_of_its_batch(variant):
    model = make_model(variant)
    images = images_of((3, 7), 2)
    both, alone = model.dense(images), model.dense(images[1:])
    torch.testing.assert_close(both.patches[1:], alone.patches, atol=1e-5, rtol=0)
    torch.testing.assert_close(both.image[1:], alone.image, atol=1e-5, rtol=0)


def test_texts_are_open_clips_own():
    model = make_model()
    texts = ["a photo of a cat", "a photo of a dog"]
    expected = model.clip.encode_text(model.tokenizer(texts), normalize=True)
    torch.testing.assert_close(model.embed_texts(texts), expected)


def test_name_tells_the_variant():
    assert make_model("naclip").name == "small naclip"
    assert make_model("proxyclip").name == "small proxyclip-colours"


def test_refuses_what_it_cannot_serve():
    clip, _ = small_clip(attentional_pool=True, attn_pooler_heads=4)
    with pytest.raises(ValueError, match="CoCa"):
        OpenClipViT(clip, name="pooled")
    clip, _ = small_clip(qk_norm=True)
    with pytest.raises(ValueError, match="CustomResidualAttentionBlock"):
        OpenClipViT(clip, name="custom")
    resnet, _ = small_clip(layers=(1, 1, 1, 1), width=16)
    with pytest.raises(ValueError, match="ModifiedResNet"):
        OpenClipViT(resnet, name="resnet")
    for attention, match in (("proxyclip", "proxy"), ("dinoiser", "heads"), ("other", "one of")):
        with pytest.raises(ValueError, match=match):
            make_model(attention, proxy=None, heads=None)
    with pytest.raises(ValueError, match="width 64"):
        make_model("dinoiser", heads=DinoiserHead(48))


def through_blocks(model, images, grid):
    """What goes into the first block and what comes out of all but the last, by open_clip's own blocks."""
    tower = model.clip.visual
    patches = tower.conv1(images).flatten(2).mT
    tokens = torch.cat([tower.class_embedding.expand(len(images), 1, -1), patches], 1)
    laid = tower.positional_embedding[1:].T.reshape(1, -1, 4, 4)
    laid = laid if grid == (4, 4) else F.interpolate(laid, grid, mode="bicubic", antialias=True)
    positions = torch.cat([tower.positional_embedding[:1], laid.flatten(2)[0].T])
    outputs = [tower.ln_pre(tokens + positions)]
    for block in tower.transformer.resblocks[:-1]:
        outputs.append(block(outputs[-1]))
    return outputs


def assert_patches(model, images, grid, expected):
    """The model's patches are these (B, N, C), normalised and projected."""
    tower = model.clip.visual
    projected = F.normalize(tower.ln_post(expected.float()) @ tower.proj, dim=-1)
    found = model.dense(images).patches
    assert found.shape == (len(images), *grid, 32)
    torch.testing.assert_close(found.flatten(1, 2), projected, atol=1e-5, rtol=0)
