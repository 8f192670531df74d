"""SAN: its graph against slow references, and its loader against the documented keys."""

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clip_models import open_clip_or_skip, small_clip

open_clip_or_skip()

import torch  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from ovs_ros.encoders.clip.dense_model import TorchFeatures  # noqa: E402
from ovs_ros.encoders.clip.image_encoder import TorchImageEncoder  # noqa: E402
from ovs_ros.encoders.model_file import ModelFile  # noqa: E402
from ovs_ros.zoo.official import fill  # noqa: E402
from ovs_ros.zoo.san import (  # noqa: E402
    CONFIGS,
    IGNORED,
    TEMPLATES,
    San,
    SanConfig,
    build_san,
    guided_block,
    load_san,
    pooling_windows,
    proposal_mask,
    rules,
)
from ovs_ros.zoo.san_adapter import AdapterConfig  # noqa: E402

SMALL = SanConfig(
    "small",
    fused=(0, 1, 2),
    clip_scale=0.5,
    adapter=AdapterConfig(width=48, depth=3, heads=3, queries=6, grid=8, channels=8),
)


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Small products are slower on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield
    torch.set_num_threads(threads)


def new_san(bias: float = 20.0, **visual: Any) -> San:
    """A SAN of few and narrow layers, whose biases are scaled so that they matter."""
    clip, _ = small_clip(**visual)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = San(clip, SMALL, "small")
    model.logit_scale = 100.0  # Of the published networks.
    model.side_adapter_network.mask_decoder.bias_scaling.weight.data.fill_(bias)
    model.side_adapter_network.mask_decoder.bias_scaling.bias.data.fill_(0.3 if bias else 0.0)
    return model


small_san = cache(new_san)
"""The same for tests that leave it as it is."""


def unit_words(count: int, dim: int = 32, seed: int = 0) -> Tensor:
    """(count, 1, dim)."""
    return F.normalize(torch.randn(count, 1, dim, generator=torch.Generator().manual_seed(seed)), dim=-1)


def images(height: int, width: int, batch: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


# --- The graph -------------------------------------------------------------------------------------------


def test_a_guided_block_is_the_formula_token_by_token() -> None:
    clip, _ = small_clip(3)
    block = clip.visual.transformer.resblocks[1]
    generator = torch.Generator().manual_seed(0)
    count, grid, heads, width = 3, (2, 4), 4, 64
    biases = 3 * torch.randn(1, heads, count, 4, 4, generator=generator)
    tokens = torch.randn(1, count + 1 + 8, width, generator=generator)

    got = guided_block(
        block, tokens, proposal_mask(biases, pooling_windows((4, 4), grid)), drop_patches=False
    )[0]

    normed = F.layer_norm(tokens[0], (width,), block.ln_1.weight, block.ln_1.bias)
    joint = (normed @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).reshape(-1, 3, heads, 16)
    attended = torch.zeros(len(normed), heads, 16)
    for t in range(len(normed)):
        # A proposal sees itself and the patches; all others see the class token and the patches.
        seen = [t, *range(count + 1, count + 9)] if t < count else list(range(count, count + 9))
        for h in range(heads):
            logits = []
            for s in seen:
                logit = float(joint[t, 0, h] @ joint[s, 1, h]) / math.sqrt(16)
                if t < count and s != t:
                    row, column = divmod(s - count - 1, 4)
                    logit += float(biases[0, h, t, 2 * row : 2 * row + 2, column].max())
                logits.append(logit)
            weights = np.exp(np.array(logits) - max(logits))
            weights /= weights.sum()
            for s, weight in zip(seen, weights, strict=True):
                attended[t, h] += float(weight) * joint[s, 2, h]
    expected = tokens[0] + block.attn.out_proj(attended.flatten(1))
    expected = expected + block.mlp(block.ln_2(expected))

    assert torch.allclose(got, expected, atol=1e-5)


def test_patches_may_be_dropped_in_the_last_block() -> None:
    clip, _ = small_clip()
    block = clip.visual.transformer.resblocks[0]
    tokens = torch.randn(2, 3 + 1 + 8, 64, generator=torch.Generator().manual_seed(0))
    biases = torch.randn(2, 4, 3, 2, 4, generator=torch.Generator().manual_seed(1))
    mask = proposal_mask(biases, pooling_windows((2, 4), (2, 4)))
    whole = guided_block(block, tokens, mask, drop_patches=False)
    dropped = guided_block(block, tokens, mask, drop_patches=True)
    assert torch.allclose(dropped, whole[:, :4], atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.tuples(*[st.integers(1, 12)] * 4))
def test_pooling_is_torchs_own(sides: tuple[int, int, int, int]) -> None:
    grid, target = sides[:2], sides[2:]
    values = torch.randn(3, *grid, generator=torch.Generator().manual_seed(0))
    pooled = values.flatten(1)[:, pooling_windows(grid, target)].amax(dim=-1)
    assert torch.equal(pooled, F.adaptive_max_pool2d(values, target).flatten(1))


def test_without_bias_every_proposal_is_clips_own_class_embedding() -> None:
    model = small_san(bias=0.0)
    picture = images(128, 128)  # CLIP gets 64 x 64, its own size
    features = model.dense(picture)
    halved = F.interpolate(picture, scale_factor=0.5, mode="bilinear", align_corners=False)
    expected = model.clip.encode_image(halved, normalize=True)  # (1, D), open_clip's own forward
    assert torch.allclose(features.image, expected, atol=1e-5)
    assert torch.allclose(features.decoding[0], expected[:, None].expand(-1, 6, -1), atol=1e-5)


def test_with_bias_the_class_embedding_stays_clips_own_and_the_proposals_go_apart() -> None:
    model = small_san()
    picture = images(128, 128)
    features = model.dense(picture)
    halved = F.interpolate(picture, scale_factor=0.5, mode="bilinear", align_corners=False)
    assert torch.allclose(features.image, model.clip.encode_image(halved, normalize=True), atol=1e-5)
    queries = features.decoding[0][0]
    assert (queries[0] - queries[1]).abs().max() > 1e-3


def test_the_adapter_is_its_blocks_in_order() -> None:
    """Embedding, then CLIP's features before the first block and after the next two."""
    model = small_san()
    adapter = model.side_adapter_network
    picture = images(128, 128)  # 8 x 8 patches, the grid of the learned positions
    _, maps = model.first_blocks(picture)
    masks, biases = adapter(picture, maps)

    x = F.conv2d(
        picture, adapter.vit_model.patch_embed.proj.weight, adapter.vit_model.patch_embed.proj.bias, 16
    )
    x = torch.cat([adapter.query_embed, x.flatten(2).mT], dim=1)
    positions = torch.cat([adapter.query_pos_embed, adapter.vit_model.pos_embed], dim=1)

    def fused(i: int, x: Tensor) -> Tensor:
        norm, project = adapter.fusion_layers[f"layer_{i}"].input_proj
        features = (norm(maps[i]) @ project.weight[:, :, 0, 0].T + project.bias).permute(0, 3, 1, 2)
        features = F.interpolate(features, size=(8, 8), mode="bilinear", align_corners=False)
        return x + F.pad(features.flatten(2).mT, (0, 0, 6, 0))

    x = fused(0, x + positions)
    for i, block in enumerate(adapter.vit_model.blocks):
        if i > 0:
            x = x + positions
        attended = x + block.attn.proj(_plain_attention(block, x))
        x = attended + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(attended))))
        if i < 2:
            x = fused(i + 1, x)

    def mlp(layers: Any, x: Tensor) -> Tensor:
        for layer in layers[:-1]:
            x = F.relu(F.linear(x, layer.weight.flatten(1), layer.bias))
        return F.linear(x, layers[-1].weight.flatten(1), layers[-1].bias)

    decoder = adapter.mask_decoder
    asked, places = mlp(decoder.query_mlp.layers, x[0, :6]), mlp(decoder.pix_mlp.layers, x[0, 6:])
    assert torch.allclose(masks[0], (asked @ places.T).reshape(6, 8, 8), atol=1e-5)
    held = mlp(decoder.attn_mlp.layers, x[0, 6:])  # (64, H * E), a head's E beside each other
    for head in range(4):
        bias = decoder.bias_scaling((asked @ held[:, 8 * head : 8 * head + 8].T)[..., None])[..., 0]
        assert torch.allclose(biases[0, head], bias.reshape(6, 8, 8), atol=1e-4)


def _plain_attention(block: Any, x: Tensor) -> Tensor:
    """timm's attention before its projection, by its formula."""
    query, key, value = block.attn.qkv(block.norm1(x)).unflatten(2, (3, 3, 16)).permute(2, 0, 3, 1, 4)
    weights = (query @ key.mT / 4).softmax(dim=-1)
    return (weights @ value).transpose(1, 2).flatten(2)


@settings(max_examples=8, deadline=None)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    batch=st.integers(1, 2),
    patch=st.sampled_from([14, 16]),
)
def test_any_grid_works(rows: int, columns: int, batch: int, patch: int) -> None:
    model = small_san(patch_size=patch, image_size=4 * patch)
    with torch.inference_mode():
        features = model.dense(images(16 * rows, 16 * columns, batch))
        assert features.patches.shape == (batch, rows, columns, 32)
        assert features.image.shape == (batch, 32)
        queries, masks = features.decoding
        assert queries.shape == (batch, 6, 32) and masks.shape == (batch, 6, 4 * rows, 4 * columns)
        for embeddings in (features.patches, features.image, queries):
            assert torch.allclose(embeddings.norm(dim=-1), torch.ones(()), atol=1e-5)
        one = TorchFeatures(features.patches[:1], features.image[:1], (queries[:1], masks[:1]))
        logits = model.decode(one, unit_words(3))
    assert logits.shape == (3, 4 * rows, 4 * columns) and bool(logits.isfinite().all())


def test_position_tables_are_resampled_once_for_a_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    model = new_san()
    with torch.inference_mode():
        once = model.dense(images(96, 160))
        interpolate = F.interpolate

        def not_bicubic(*given: Any, mode: str, **others: Any) -> Tensor:
            assert mode != "bicubic"
            return interpolate(*given, mode=mode, **others)

        monkeypatch.setattr(F, "interpolate", not_bicubic)
        again = model.dense(images(96, 160))
    assert torch.equal(once.patches, again.patches)


def test_images_of_a_batch_do_not_mix() -> None:
    model = small_san()
    both = model.dense(images(96, 160, batch=2))
    alone = model.dense(images(96, 160, batch=2)[1:])
    assert torch.allclose(both.patches[1:], alone.patches, atol=1e-5)
    assert torch.allclose(both.decoding[0][1:], alone.decoding[0], atol=1e-5)
    assert torch.allclose(both.decoding[1][1:], alone.decoding[1], atol=1e-5)


# --- Decoding --------------------------------------------------------------------------------------------


def test_decoding_is_the_papers_sum() -> None:
    model = small_san()
    features = model.dense(images(64, 96))
    words = unit_words(3)
    logits = model.decode(features, words)

    queries, masks = (part[0].double().numpy() for part in features.decoding)
    nothing = model.bg_embed[0].double().numpy()
    classes = [*words[:, 0].double().numpy(), nothing / np.linalg.norm(nothing)]
    expected = np.zeros((3, *masks.shape[1:]))
    for q in range(6):
        scores = np.array([100.0 * queries[q] @ c for c in classes])
        shares = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        for m in range(3):
            expected[m] += shares[m] * masks[q]
    assert np.allclose(np.exp(logits.numpy()), expected, rtol=1e-3, atol=1e-6)


def test_masks_are_upsampled_before_their_sigmoid() -> None:
    model = small_san()
    picture = images(64, 96)
    _, maps = model.first_blocks(picture)
    coarse, _ = model.side_adapter_network(picture, maps)
    fine = F.interpolate(coarse, scale_factor=4, mode="bilinear", align_corners=False).sigmoid()
    assert torch.allclose(model.dense(picture).decoding[1], fine, atol=1e-6)


def test_the_order_of_words_does_not_matter() -> None:
    model = small_san()
    features = model.dense(images(64, 96))
    words = unit_words(5)
    order = [3, 0, 4, 1, 2]
    assert torch.allclose(
        model.decode(features, words[order]), model.decode(features, words)[order], atol=1e-5
    )


def test_words_of_zeros_take_no_share() -> None:
    model = small_san()
    features = model.dense(images(64, 96))
    words = unit_words(3)
    filled = model.decode(features, torch.cat([words, torch.zeros(5, 1, 32)]))
    assert torch.allclose(filled[:3], model.decode(features, words), atol=1e-5)
    assert (filled[3:] < -80).all()


def test_only_the_last_product_knows_how_many_words_there_are() -> None:
    """The cost of decoding is exactly that of two matrix products: linear in words, without a network."""
    from torch.utils.flop_counter import FlopCounterMode

    model = small_san()
    with FlopCounterMode(display=False) as encoding:
        features = model.dense(images(64, 96))
    places = features.decoding[1][0, 0].numel()
    for count in (2, 150):
        with FlopCounterMode(display=False) as decoding:
            model.decode(features, unit_words(count))
        assert decoding.get_total_flops() == 2 * 6 * 32 * (count + 1) + 2 * 6 * places * count
        assert {str(op) for op in decoding.get_flop_counts()["Global"]} == {"aten.mm"}
    assert encoding.get_total_flops() > 100 * decoding.get_total_flops() / 150


def test_a_place_without_any_mask_has_finite_logits() -> None:
    model = small_san()
    features = model.dense(images(32, 32))
    empty = TorchFeatures(features.patches, features.image, (features.decoding[0], torch.zeros(1, 6, 8, 8)))
    assert bool(model.decode(empty, unit_words(4)).isfinite().all())


def test_lower_precision_decides_as_single_does() -> None:
    """Through the image encoder, which casts weights and computes under autocast."""
    picture = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    words = unit_words(4)[:, 0].numpy()
    decided = []
    for precision in ("fp32", "bf16"):
        model = new_san(bias=2.0)
        encoder = TorchImageEncoder(model, patches=64, device="cpu", precision=precision)
        features = encoder.encode(picture)
        logits = features.logits(words)
        assert features.patch_tokens.shape == (8, 8, 32) and logits.shape == (32, 32, 4)
        assert features.grid == (32, 32)
        assert np.allclose(np.exp(logits), _papers_sum(model, encoder, picture, words))
        decided.append(logits.argmax(axis=2))
    # bfloat16 keeps 3 digits, which the scale of 100 makes differences of about one half.
    assert (decided[0] == decided[1]).mean() > 0.9


def _papers_sum(model: San, encoder: TorchImageEncoder, picture: Any, words: Any) -> Any:
    """The sum whose logarithm the logits are: (32, 32, M)."""
    encoder.encode(picture)  # The buffers hold the picture from now on.
    queries, masks = encoder.buffers(*picture.shape[:2]).encode().windows.decoding
    classes = torch.cat([torch.from_numpy(words), F.normalize(model.bg_embed.float(), dim=-1)])
    shares = (100 * queries[0].float() @ classes.T).softmax(dim=-1)[:, :-1]
    return torch.einsum("qm,qhw->hwm", shares, masks[0].float()).numpy()


def test_texts_go_through_clips_own_tower() -> None:
    model = small_san()
    clip, tokenizer = small_clip()
    texts = [TEMPLATES[0].format("chair"), "a red cup"]
    expected = clip.encode_text(tokenizer(texts), normalize=True)
    assert torch.allclose(model.embed_texts(texts), expected, atol=1e-6)
    assert len(set(TEMPLATES)) == 14 and all(template.count("{}") == 1 for template in TEMPLATES)


# --- Checkpoints -----------------------------------------------------------------------------------------


def block_shapes(prefix: str, width: int) -> dict[str, tuple[int, ...]]:
    """A residual block of CLIP."""
    shapes: dict[str, tuple[int, ...]] = {
        "attn.in_proj_weight": (3 * width, width),
        "attn.in_proj_bias": (3 * width,),
        "attn.out_proj.weight": (width, width),
        "attn.out_proj.bias": (width,),
        "mlp.c_fc.weight": (4 * width, width),
        "mlp.c_fc.bias": (4 * width,),
        "mlp.c_proj.weight": (width, 4 * width),
        "mlp.c_proj.bias": (width,),
    }
    for norm in ("ln_1", "ln_2"):
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    return {f"{prefix}.{key}": shape for key, shape in shapes.items()}


def checkpoint_shapes(
    *, vision: int, layers: int, shared: int, heads: int, patch: int, grid: int, text: int, text_layers: int,
    dim: int, fused: int, adapter: AdapterConfig,
) -> dict[str, tuple[int, ...]]:  # fmt: skip
    """The keys of a published checkpoint, as the authors' training logs list them, with their shapes."""
    shapes: dict[str, tuple[int, ...]] = {
        "clip_visual_extractor.class_embedding": (vision,),
        "clip_visual_extractor.positional_embedding": (grid * grid + 1, vision),
        "clip_visual_extractor.conv1.weight": (vision, 3, patch, patch),
        "clip_visual_extractor.ln_pre.weight": (vision,),
        "clip_visual_extractor.ln_pre.bias": (vision,),
        "clip_rec_head.proj": (vision, dim),
        "clip_rec_head.ln_post.weight": (vision,),
        "clip_rec_head.ln_post.bias": (vision,),
        "ov_classifier.positional_embedding": (77, text),
        "ov_classifier.text_projection": (text, dim),
        "ov_classifier.logit_scale": (),
        "ov_classifier.bg_embed": (1, dim),
        "ov_classifier.attn_mask": (77, 77),
        "ov_classifier.token_embedding.weight": (49408, text),
        "ov_classifier.ln_final.weight": (text,),
        "ov_classifier.ln_final.bias": (text,),
        "criterion.empty_weight": (172,),
    }
    for i in range(shared):
        shapes |= block_shapes(f"clip_visual_extractor.resblocks.{i}", vision)
    for i in range(layers - shared):
        shapes |= block_shapes(f"clip_rec_head.resblocks.{i}", vision)
    for i in range(text_layers):
        shapes |= block_shapes(f"ov_classifier.transformer.resblocks.{i}", text)

    side, width, channels = "side_adapter_network", adapter.width, adapter.channels
    shapes |= {
        f"{side}.query_embed": (1, adapter.queries, width),
        f"{side}.query_pos_embed": (1, adapter.queries, width),
        f"{side}.vit_model.pos_embed": (1, adapter.grid**2, width),
        f"{side}.vit_model.patch_embed.proj.weight": (width, 3, 16, 16),
        f"{side}.vit_model.patch_embed.proj.bias": (width,),
        f"{side}.mask_decoder.bias_scaling.weight": (1, 1),
        f"{side}.mask_decoder.bias_scaling.bias": (1,),
    }
    for i in range(adapter.depth):
        block = f"{side}.vit_model.blocks.{i}"
        linears = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
        for name, (outputs, inputs) in linears.items():
            shapes[f"{block}.{name}.weight"] = (outputs * width, inputs * width)
            shapes[f"{block}.{name}.bias"] = (outputs * width,)
        for name in ("norm1", "norm2"):
            shapes |= {f"{block}.{name}.weight": (width,), f"{block}.{name}.bias": (width,)}
    for i in range(fused):
        layer = f"{side}.fusion_layers.layer_{i}.input_proj"
        shapes |= {f"{layer}.0.weight": (vision,), f"{layer}.0.bias": (vision,)}
        shapes |= {f"{layer}.1.weight": (width, vision, 1, 1), f"{layer}.1.bias": (width,)}
    for mlp, kernel, outputs in (
        ("query_mlp", (), channels),
        ("pix_mlp", (1, 1), channels),
        ("attn_mlp", (1, 1), channels * heads),
    ):
        ends = ((width, channels), (channels, channels), (channels, outputs))
        for i, (before, after) in enumerate(ends):
            shapes[f"{side}.mask_decoder.{mlp}.layers.{i}.weight"] = (after, before, *kernel)
            shapes[f"{side}.mask_decoder.{mlp}.layers.{i}.bias"] = (after,)
    return shapes


SMALL_SHAPES = checkpoint_shapes(
    vision=64, layers=4, shared=2, heads=4, patch=16, grid=4, text=64, text_layers=2, dim=32, fused=3,
    adapter=SMALL.adapter,
)  # fmt: skip
PUBLISHED_SHAPES = {
    "san-b": checkpoint_shapes(
        vision=768, layers=12, shared=9, heads=12, patch=16, grid=14, text=512, text_layers=12, dim=512,
        fused=4, adapter=AdapterConfig(),
    ),
    "san-l": checkpoint_shapes(
        vision=1024, layers=24, shared=18, heads=16, patch=14, grid=24, text=768, text_layers=12, dim=768,
        fused=4, adapter=AdapterConfig(),
    ),
}  # fmt: skip


def save(path: Path, tensors: dict[str, Tensor]) -> Path:
    """As detectron2 saves: the weights under 'model', beside what training needs."""
    torch.save({"model": tensors, "iteration": 59999}, path)
    return path


def fill_san(model: San, path: Path) -> None:
    fill(model, path, rules(model), IGNORED)


def random_checkpoint(seed: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {key: 0.1 * torch.randn(shape, generator=generator) for key, shape in SMALL_SHAPES.items()}


def test_every_documented_key_finds_its_place(tmp_path: Path) -> None:
    tensors = random_checkpoint()
    tensors["ov_classifier.logit_scale"] = torch.tensor(math.log(50.0))
    model = new_san()
    fill_san(model, save(tmp_path / "san.pth", tensors))

    state = model.state_dict()
    places = {
        "clip_visual_extractor.resblocks.1.ln_1.bias": "clip.visual.transformer.resblocks.1.ln_1.bias",
        "clip_rec_head.resblocks.0.ln_1.weight": "clip.visual.transformer.resblocks.2.ln_1.weight",
        "clip_rec_head.resblocks.1.ln_1.weight": "clip.visual.transformer.resblocks.3.ln_1.weight",
        "clip_visual_extractor.positional_embedding": "clip.visual.positional_embedding",
        "clip_rec_head.proj": "clip.visual.proj",
        "ov_classifier.positional_embedding": "clip.positional_embedding",
        "ov_classifier.transformer.resblocks.1.ln_2.bias": "clip.transformer.resblocks.1.ln_2.bias",
        "ov_classifier.bg_embed": "bg_embed",
        "side_adapter_network.query_embed": "side_adapter_network.query_embed",
    }
    for source, target in places.items():
        assert torch.equal(state[target], tensors[source]), source
    # All but the two ignored ones, none twice.
    assert len(state) == len(tensors) - 2
    assert model.logit_scale == pytest.approx(50.0)
    assert model.name.startswith("small-") and len(model.name) == len("small-") + 12
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())


def test_a_network_without_weights_takes_all_from_the_file(tmp_path: Path) -> None:
    """As it is loaded: made on 'meta', then filled; also the text tower is the checkpoint's own."""
    path = save(tmp_path / "san.pth", random_checkpoint())
    model = new_san()
    before = model.embed_texts(["chair"])
    fill_san(model, path)
    clip, _ = small_clip()
    with torch.device("meta"):
        other = San(clip.to_empty(device="cpu"), SMALL, "small")
    fill_san(other, path)
    assert torch.equal(other.embed_texts(["chair"]), model.embed_texts(["chair"]))
    assert (model.embed_texts(["chair"]) - before).abs().max() > 1e-3
    expected, got = model.dense(images(64, 96)), other.dense(images(64, 96))
    assert torch.equal(got.patches, expected.patches)
    assert torch.equal(other.decode(got, unit_words(2)), model.decode(expected, unit_words(2)))


def test_missing_foreign_and_misshapen_keys_are_all_named(tmp_path: Path) -> None:
    tensors = random_checkpoint()
    del tensors["clip_rec_head.proj"]
    del tensors["side_adapter_network.mask_decoder.pix_mlp.layers.2.bias"]
    tensors["clip_rec_head.resblocks.2.ln_1.weight"] = torch.zeros(64)
    tensors["backbone.stem"] = torch.zeros(3)
    tensors["ov_classifier.bg_embed"] = torch.zeros(1, 31)
    with pytest.raises(ValueError) as error:
        fill_san(new_san(), save(tmp_path / "san.pth", tensors))
    message = str(error.value)
    assert "missing: " in message and "clip.visual.proj" in message
    assert "side_adapter_network.mask_decoder.pix_mlp.layers.2.bias" in message
    assert "foreign: " in message and "clip_rec_head.resblocks.2.ln_1.weight" in message
    assert "backbone.stem" in message
    assert "bg_embed (expected (1, 32), got (1, 31))" in message


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_the_published_networks_have_the_documented_shapes(name: str) -> None:
    from ovs_ros.encoders.checkpoint_keys import Checkpoint, map_keys

    model = build_san(name)
    with torch.device("meta"):
        tensors = {key: torch.empty(shape) for key, shape in PUBLISHED_SHAPES[name].items()}
    state = map_keys(Checkpoint(Path("san.pth"), "", tensors), model.state_dict(), rules(model), IGNORED)
    assert state.keys() == model.state_dict().keys()


def test_the_published_trainable_count_is_met() -> None:
    """The authors' log of the B network ends with 8.37 M trainable parameters."""
    model = build_san("san-b")
    trained = [
        *model.side_adapter_network.parameters(),
        model.bg_embed,
        model.clip.visual.positional_embedding,
    ]
    assert round(sum(parameter.numel() for parameter in trained) / 1e6, 2) == 8.37


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        fill_san(new_san(), tmp_path / "none.pth")


def test_weights_must_be_named() -> None:
    with pytest.raises(FileNotFoundError, match="san_vit_b_16.pth"):
        load_san(ModelFile(model="san-b"))


# --- ONNX ------------------------------------------------------------------------------------------------


class Encoder(torch.nn.Module):
    """All that does not depend on words, as tensors."""

    def __init__(self, model: San) -> None:
        super().__init__()
        self.model = model

    def forward(self, picture: Tensor) -> tuple[Tensor, ...]:
        features = self.model.dense(picture)
        return features.patches, features.image, *features.decoding


def test_a_grid_that_does_not_divide_can_be_exported(tmp_path: Path) -> None:
    """On 9 x 11 patches pooling windows differ in size, which no pooling of ONNX has."""
    pytest.importorskip("onnx", reason="writes ONNX")
    import onnxruntime

    from ovs_ros.runtime.torch_to_onnx import write_static

    with torch.inference_mode(False):
        encoder, picture, path = Encoder(new_san(bias=2.0)), images(144, 176), tmp_path / "san.onnx"
        expected = encoder(picture)
        names = ["patches", "image", "queries", "masks"]
        write_static(encoder, (picture,), path, ["picture"], names)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for got, wanted in zip(session.run(names, {"picture": picture.numpy()}), expected, strict=True):
        assert np.allclose(got, wanted.numpy(), atol=1e-4)
