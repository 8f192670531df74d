"""SED: the decoder against plain references of its formulas, and checkpoints with the authors' keys."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clip_models import open_clip_or_skip

open_clip = open_clip_or_skip()
import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from ovs_ros.encoders.clip.clip_model import without_values  # noqa: E402
from ovs_ros.encoders.clip.image_encoder import TorchImageEncoder  # noqa: E402
from ovs_ros.encoders.clip.text_encoder import ClipTextEncoder  # noqa: E402
from ovs_ros.encoders.clip.weights import architecture  # noqa: E402
from ovs_ros.encoders.model_file import ModelFile  # noqa: E402
from ovs_ros.model import Model  # noqa: E402
from ovs_ros.segmenter import Segmenter, SegmenterOptions  # noqa: E402
from ovs_ros.vocabulary.prompts import embed  # noqa: E402
from ovs_ros.vocabulary.vocabulary import Vocabulary  # noqa: E402
from ovs_ros.zoo import sed  # noqa: E402
from ovs_ros.zoo.cat_seg_aggregator import DoubleConv  # noqa: E402
from ovs_ros.zoo.sed import PROMPTS, Sed, load_sed  # noqa: E402
from ovs_ros.zoo.sed_decoder import (  # noqa: E402
    ClassAttention,
    LinearAttention,
    SedDecoder,
)

SMALL = {
    "embed_dim": 32,
    "vision_cfg": {
        "timm_model_name": "convnext_atto",
        "timm_pool": "",
        "timm_proj": "linear",
        "image_size": 64,
    },
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
SPREAD = 1.5
"""Weights far enough from zero that each layer leaves its mark on the result."""


ALL = torch.ones(300, dtype=torch.bool)
"""Every word counts."""


def small_clip() -> Any:
    clip = open_clip.CLIP(**SMALL)
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    open_clip.model.set_model_preprocess_cfg(clip, {"size": 64, "mean": mean, "std": std})
    return clip


def spread(module: nn.Module) -> None:
    """Random values in place of initial ones, some of which are zero or one."""
    for name, parameter in module.named_parameters():
        shift = 1.0 if name.endswith(("norm.weight", "norm1.weight", "norm2.weight")) else 0.0
        nn.init.normal_(parameter, mean=shift, std=SPREAD / max(1, parameter[0].numel()) ** 0.5)


@pytest.fixture(scope="module")
def model() -> Sed:
    torch.manual_seed(0)
    clip = small_clip()
    clip.logit_scale.data.fill_(4.0)
    model = Sed(clip, name="sed-small")
    spread(model.decoder)
    return model


@pytest.fixture(scope="module")
def words() -> torch.Tensor:
    return F.normalize(torch.randn(5, PROMPTS, 32, generator=torch.Generator().manual_seed(1)), dim=-1)


def images(height: int, width: int, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(2))


def test_patches_and_image_are_open_clip_s(model: Sed) -> None:
    # Where the map has one position, the position's embedding and the image's are open_clip's own.
    one = model.dense(images(32, 32))
    expected = model.clip.encode_image(images(32, 32), normalize=True)
    torch.testing.assert_close(one.image, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(one.patches[0, 0], expected, atol=1e-5, rtol=0)
    wide = model.dense(images(64, 160, batch=2))
    assert wide.patches.shape == (2, 2, 5, 32) and wide.image.shape == (2, 32)
    expected = model.clip.encode_image(images(64, 160, batch=2), normalize=True)
    torch.testing.assert_close(wide.image, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(wide.patches.norm(dim=-1), torch.ones(2, 2, 5))


def test_each_patch_goes_through_the_head_alone(model: Sed) -> None:
    x = images(64, 96)
    trunk = model.clip.visual.trunk.forward_features(x)  # (1, C, 2, 3)
    got = model.dense(x).patches[0, 1, 2]
    normed = F.layer_norm(
        trunk[0, :, 1, 2],
        trunk.shape[1:2],
        model.clip.visual.trunk.head.norm.weight,
        model.clip.visual.trunk.head.norm.bias,
        1e-6,
    )
    expected = F.normalize(model.clip.visual.head.proj.weight @ normed, dim=0)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_guidance_comes_from_strides_16_8_and_4(model: Sed) -> None:
    shapes = [tuple(x.shape) for x in model.dense(images(64, 96)).decoding]
    assert shapes == [(1, 32, 4, 6), (1, 16, 8, 12), (1, 8, 16, 24)]


@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 3), (2, 4), (5, 3)])
def test_any_grid_decodes(model: Sed, words: torch.Tensor, h: int, w: int) -> None:
    logits = model.decode(model.dense(images(32 * h, 32 * w)), words)
    assert logits.shape == (5, 8 * h, 8 * w) and logits.isfinite().all()
    assert logits.std() > 1e-3


def test_permuted_words_permute_logits(model: Sed, words: torch.Tensor) -> None:
    features, order = model.dense(images(64, 96)), torch.tensor([3, 0, 4, 1, 2])
    logits = model.decode(features, words)
    assert (logits[0] - logits[1]).abs().max() > 1e-3
    torch.testing.assert_close(model.decode(features, words[order]), logits[order], atol=1e-4, rtol=0)


def test_words_of_zeros_fill_up_and_nothing_else(model: Sed, words: torch.Tensor) -> None:
    features = model.dense(images(64, 96))
    filled = torch.cat((words, torch.zeros(60, PROMPTS, 32)))
    alone = model.decode(features, words)
    torch.testing.assert_close(model.decode(features, filled)[:5], alone, atol=1e-5, rtol=0)
    # Were they words, they would count.
    competing = model.decoder(
        torch.einsum("hwd,mpd->mphw", features.patches[0], filled), features.decoding, ALL[:65]
    )
    assert (competing[:5] - alone).abs().max() > 1e-4


def test_a_word_depends_on_the_others_that_compete(model: Sed, words: torch.Tensor) -> None:
    features = model.dense(images(64, 96))
    assert (model.decode(features, words)[:2] - model.decode(features, words[:2])).abs().max() > 1e-4


def test_each_prompt_has_a_channel(model: Sed, words: torch.Tensor) -> None:
    """Repeating the mean sums a channel's weights over prompts: another result than the prompts' own."""
    features = model.dense(images(64, 96))
    mean = words.mean(dim=1, keepdim=True)
    repeated = mean.expand(-1, PROMPTS, -1)
    cost = torch.einsum("hwd,md->mhw", features.patches[0], mean[:, 0])
    conv = model.decoder.conv1
    summed = F.conv2d(cost[:, None], conv.weight.sum(dim=1, keepdim=True), conv.bias, padding=3)
    costs = torch.einsum("hwd,mpd->mphw", features.patches[0], repeated)
    torch.testing.assert_close(conv(costs), summed, atol=1e-5, rtol=0)
    apart = model.decode(features, words)
    assert (model.decode(features, repeated) - apart).abs().max() > 1e-4
    turned = model.decode(features, words.roll(1, dims=1))
    assert (turned - apart).abs().max() > 1e-4


def test_another_number_of_prompts_is_refused(model: Sed, words: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="expected 80 prompts for each word, got 1"):
        model.decode(model.dense(images(32, 32)), words[:, :1])


def test_linear_attention_is_the_sum_over_words() -> None:
    torch.manual_seed(3)
    attention = LinearAttention(16).requires_grad_(False)
    x = torch.randn(2, 6, 16)  # (positions, M, width)
    got = attention(x, ALL[:6])
    for position in range(2):
        q, k, v = (part(x[position]).view(6, 4, 4) for part in (attention.q, attention.k, attention.v))
        for m in range(6):
            for head in range(4):
                similar = [(F.elu(q[m, head]) + 1) @ (F.elu(k[n, head]) + 1) for n in range(6)]
                weights = torch.stack(similar) / (sum(similar) + 1e-6)
                expected = sum(weights[n] * v[n, head] for n in range(6))
                torch.testing.assert_close(
                    got[position, m, 4 * head : 4 * head + 4], expected, atol=1e-5, rtol=1e-4
                )


def test_linear_attention_keeps_float32_sums_under_autocast() -> None:
    torch.manual_seed(3)
    attention = LinearAttention(16).requires_grad_(False)
    x = 100 * torch.randn(1, 300, 16)
    with torch.autocast("cpu", torch.bfloat16):
        half = attention(x, ALL)
    assert half.isfinite().all()
    exact = attention(x, ALL)
    assert (half - exact).abs().max() < 0.05 * exact.abs().max()


def test_class_attention_works_on_squares_of_two() -> None:
    torch.manual_seed(4)
    attention = ClassAttention(16).requires_grad_(False)
    x = torch.randn(3, 16, 4, 6)
    square = x[:, :, :2, :2].mean(dim=(2, 3))  # (M, width): the first square, which is the first corner's
    square = square + attention.attention(attention.norm1(square), ALL[:3])
    square = square + attention.MLP(attention.norm2(square))
    torch.testing.assert_close(
        attention(x, ALL[:3])[:, :, 0, 0], x[:, :, 0, 0] + square, atol=1e-5, rtol=1e-4
    )


def test_joined_convolution_equals_that_of_the_concatenation() -> None:
    torch.manual_seed(5)
    conv = DoubleConv(24, 32).requires_grad_(False)
    x, image, cost = torch.randn(3, 16, 4, 5), torch.randn(1, 6, 4, 5), torch.randn(3, 2, 4, 5)
    expected = conv.double_conv(torch.cat((x, image.expand(3, -1, -1, -1), cost), dim=1))
    torch.testing.assert_close(conv(x, image, cost), expected, atol=1e-5, rtol=1e-4)


def test_stages_take_turns_as_published() -> None:
    """The whole decoder, written down step by step."""
    torch.manual_seed(6)
    decoder = SedDecoder(7, (48, 24, 12)).requires_grad_(False)
    spread(decoder)
    cost = torch.randn(3, 7, 2, 4)
    maps = [torch.randn(1, 48, 4, 8), torch.randn(1, 24, 8, 16), torch.randn(1, 12, 16, 32)]
    x = decoder.conv1(cost)
    skip = cost
    for i, stage in enumerate((decoder.decoder1, decoder.decoder2, decoder.decoder3)):
        block = stage.cnext
        inner = F.layer_norm(
            block.dwconv(x).permute(0, 2, 3, 1), x.shape[1:2], block.norm.weight, block.norm.bias, 1e-6
        )
        inner = block.gamma * block.pwconv2(F.gelu(block.pwconv1(inner)))
        x = stage.attention(x + inner.permute(0, 3, 1, 2), ALL[:3])
        image = F.relu(decoder.decoder_guidance_projection[i][0](maps[i])).expand(3, -1, -1, -1)
        skip = F.relu(decoder.decoder_corr_guidance_projection[i][0](skip))
        x = stage.conv.double_conv(torch.cat((stage.up(x), image, skip), dim=1))
    expected = decoder.head(x)[:, 0]
    got = decoder(cost, decoder.guidance(maps), ALL[:3])
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


# What the authors' checkpoints hold beside CLIP and the heads of early rejection, with SED-B's widths.
DECODER_KEYS: dict[str, tuple[int, ...]] = {
    "conv1.weight": (128, 80, 7, 7),
    "conv1.bias": (128,),
    "decoder_guidance_projection.0.0.weight": (32, 512, 3, 3),
    "decoder_guidance_projection.1.0.weight": (16, 256, 3, 3),
    "decoder_guidance_projection.2.0.weight": (8, 128, 3, 3),
    "decoder_corr_guidance_projection.0.0.weight": (80, 32, 2, 2),
    "decoder_corr_guidance_projection.1.0.weight": (32, 16, 2, 2),
    "decoder_corr_guidance_projection.2.0.weight": (16, 8, 2, 2),
    "head.weight": (1, 16, 3, 3),
    **{f"decoder_guidance_projection.{i}.0.bias": (n,) for i, n in enumerate((32, 16, 8))},
    **{f"decoder_corr_guidance_projection.{i}.0.bias": (n,) for i, n in enumerate((32, 16, 8))},
    "head.bias": (1,),
}
for number, (width, out, taken) in enumerate(((128, 64, 32), (64, 32, 16), (32, 16, 8)), start=1):
    DECODER_KEYS |= {
        f"decoder{number}.{key}": shape
        for key, shape in {
            "up.weight": (width, width - taken, 2, 2),
            "up.bias": (width - taken,),
            "conv.double_conv.0.weight": (out, width + taken, 3, 3),
            "conv.double_conv.1.weight": (out,),
            "conv.double_conv.1.bias": (out,),
            "conv.double_conv.3.weight": (out, out, 3, 3),
            "conv.double_conv.4.weight": (out,),
            "conv.double_conv.4.bias": (out,),
            "cnext.gamma": (width,),
            "cnext.dwconv.weight": (width, 1, 9, 9),
            "cnext.dwconv.bias": (width,),
            "cnext.norm.weight": (width,),
            "cnext.norm.bias": (width,),
            "cnext.pwconv1.weight": (4 * width, width),
            "cnext.pwconv1.bias": (4 * width,),
            "cnext.pwconv2.weight": (width, 4 * width),
            "cnext.pwconv2.bias": (width,),
            **{f"attention.attention.{x}.weight": (width, width) for x in "qkv"},
            **{f"attention.attention.{x}.bias": (width,) for x in "qkv"},
            "attention.MLP.0.weight": (4 * width, width),
            "attention.MLP.0.bias": (4 * width,),
            "attention.MLP.2.weight": (width, 4 * width),
            "attention.MLP.2.bias": (width,),
            **{f"attention.norm{i}.{x}": (width,) for i in (1, 2) for x in ("weight", "bias")},
        }.items()
    }
CLIP_KEYS = {
    "sed-b": {
        "visual.trunk.stem.0.weight": (128, 3, 4, 4),
        "visual.trunk.stages.2.blocks.26.mlp.fc1.weight": (2048, 512),
        "visual.trunk.stages.3.downsample.1.weight": (1024, 512, 2, 2),
        "visual.trunk.stages.3.blocks.2.conv_dw.weight": (1024, 1, 7, 7),
        "visual.trunk.stages.3.blocks.2.gamma": (1024,),
        "visual.trunk.head.norm.weight": (1024,),
        "visual.head.proj.weight": (640, 1024),
        "transformer.resblocks.11.attn.in_proj_weight": (1920, 640),
        "token_embedding.weight": (49408, 640),
        "text_projection": (640, 640),
        "positional_embedding": (77, 640),
        "logit_scale": (),
    },
    "sed-l": {
        "visual.trunk.stages.3.blocks.2.mlp.fc2.weight": (1536, 6144),
        "visual.head.mlp.fc1.weight": (1536, 1536),
        "visual.head.mlp.fc1.bias": (1536,),
        "visual.head.mlp.fc2.weight": (768, 1536),
        "transformer.resblocks.15.mlp.c_fc.weight": (3072, 768),
    },
}
GUIDED = {"sed-b": (512, 256, 128), "sed-l": (768, 384, 192)}


@pytest.mark.parametrize("name", ["sed-b", "sed-l"])
def test_real_architectures_have_the_published_keys(name: str) -> None:
    with without_values():
        clip = open_clip.CLIP(**architecture(sed.ARCHITECTURES[name]))
        decoder = SedDecoder(PROMPTS, [s["num_chs"] for s in clip.visual.trunk.feature_info][-2::-1])
    keys = DECODER_KEYS | {
        f"decoder_guidance_projection.{i}.0.weight": (taken, given, 3, 3)
        for i, (taken, given) in enumerate(zip((32, 16, 8), GUIDED[name], strict=True))
    }
    assert {key: tuple(x.shape) for key, x in decoder.state_dict().items()} == keys
    held = {key: tuple(x.shape) for key, x in clip.state_dict().items()}
    assert {key: held.get(key) for key in CLIP_KEYS[name]} == CLIP_KEYS[name]


@pytest.fixture
def official(model: Sed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, torch.Tensor]:
    """A checkpoint's tensors under the authors' keys, of a small encoder that stands in for SED-B's."""
    (tmp_path / "sed_test_encoder.json").write_text(json.dumps(SMALL))
    open_clip.add_model_config(tmp_path)
    monkeypatch.setitem(sed.ARCHITECTURES, "sed-b", "sed_test_encoder")
    decoder = {f"sem_seg_head.predictor.transformer.{k}": v for k, v in model.decoder.state_dict().items()}
    clip = {f"sem_seg_head.predictor.clip_model.{k}": v for k, v in model.clip.state_dict().items()}
    rejection = {"sem_seg_head.predictor.transformer.head0.bias": torch.zeros(1)}  # not used here
    return clip | decoder | rejection


def test_a_checkpoint_gives_its_encoder_its_decoder_and_its_text_tower(
    official: dict[str, torch.Tensor], model: Sed, words: torch.Tensor, tmp_path: Path
) -> None:
    path = tmp_path / "sed_base.pth"
    torch.save({"model": official, "iteration": 79999}, path)
    loaded = load_sed(ModelFile("sed-b", weights=str(path)))
    assert loaded.name.startswith("sed-b-") and loaded.name != "sed-b-"
    assert loaded.logit_scale == model.logit_scale == pytest.approx(np.exp(4.0))
    assert (loaded.mean, loaded.std) == (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    x = images(64, 96)
    torch.testing.assert_close(
        loaded.decode(loaded.dense(x), words), model.decode(model.dense(x), words), atol=1e-5, rtol=0
    )
    texts = ["a photo of a chair.", "a toy chair."]
    torch.testing.assert_close(loaded.embed_texts(texts), model.embed_texts(texts))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_all_that_does_not_fit_is_told_at_once(official: dict[str, torch.Tensor], tmp_path: Path) -> None:
    prefix = "sem_seg_head.predictor."
    del official[f"{prefix}transformer.decoder2.up.weight"], official[f"{prefix}clip_model.text_projection"]
    official[f"{prefix}transformer.head.weight"] = torch.zeros(1, 32, 3, 3)
    official["backbone.norm.weight"] = torch.zeros(1)
    path = tmp_path / "sed_base.pth"
    torch.save({"model": official}, path)
    with pytest.raises(ValueError) as error:
        load_sed(ModelFile("sed-b", weights=str(path)))
    message = str(error.value)
    assert "missing: " in message and "decoder.decoder2.up.weight" in message
    assert "clip.text_projection" in message
    assert "foreign: backbone.norm.weight" in message
    assert "decoder.head.weight (expected (1, 16, 3, 3), got (1, 32, 3, 3))" in message


def test_what_cannot_be_loaded_says_so_first() -> None:
    with pytest.raises(FileNotFoundError, match="xb534/SED"):
        load_sed(ModelFile("sed-b"))
    with pytest.raises(ValueError, match="expected 80 templates or none for sed-b.*got 1"):
        load_sed(ModelFile("sed-b", weights="x", templates=("a {}",)))
    with pytest.raises(FileNotFoundError, match="got ./nowhere/sed.pth.*xb534"):
        load_sed(ModelFile("sed-l", weights="/nowhere/sed.pth"))


def test_a_segmenter_decodes_the_words_that_it_selected_with_all_their_prompts(model: Sed) -> None:
    encoder = TorchImageEncoder(copy.deepcopy(model), patches=6, device="cpu", precision="fp32")
    segmenter = Segmenter(Model(encoder, ClipTextEncoder(model)), SegmenterOptions(validation="off"))
    names = ["chair", "desk", "window", "dog", "road", "tree", "cup", "lamp"]
    words = segmenter.embed(Vocabulary.from_names(names, ["wall"]))
    assert words.prompts is not None and words.prompts.shape == (9, PROMPTS, 32)
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    scored = segmenter.score(image, words)
    rows = scored.selection.words
    assert scored.logits.shape == (16, 24, len(rows))
    frame = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (model.mean, model.std))
    texts = [
        t.replace("{}", name) for name in (*names, "wall") for t in segmenter.model.text_encoder.templates
    ]
    prompts = model.embed_texts(texts).view(9, PROMPTS, 32)[torch.from_numpy(rows)]
    expected = model.decode(model.dense((frame - mean) / std), prompts).permute(1, 2, 0)
    np.testing.assert_allclose(scored.logits, expected.numpy(), atol=2e-2)
    assert np.ptp(scored.logits) > 0.5
    assert segmenter.segment(image, words).labels.shape == (64, 96)


@pytest.mark.filterwarnings("error")
def test_all_words_go_in_at_half_the_precision(model: Sed) -> None:
    words = embed(Vocabulary.from_names(["chair", "desk", "cup"]), ClipTextEncoder(model))
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    logits = []
    for precision in ("fp32", "bf16"):
        encoder = TorchImageEncoder(copy.deepcopy(model), patches=6, device="cpu", precision=precision)
        segmenter = Segmenter(Model(encoder, ClipTextEncoder(model)), SegmenterOptions(select=False))
        logits.append(segmenter.score(image, words).logits)
    exact, rounded = (x - x.mean() for x in logits)
    assert np.sum(exact * rounded) / np.linalg.norm(exact) / np.linalg.norm(rounded) > 0.99


def test_the_decoder_can_be_exported(model: Sed, words: torch.Tensor, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="exports need onnx, which the development set brings")
    import onnxruntime

    from ovs_ros.encoders.clip.export import DecoderGraph
    from ovs_ros.runtime.torch_to_onnx import write_static

    features, path = model.dense(images(32, 64)), tmp_path / "decoder.onnx"
    given = (words, features.patches, features.image, *features.decoding)
    names = ["words", "patches", "pooled", "decoding0", "decoding1", "decoding2"]
    write_static(DecoderGraph(model).eval(), given, path, names, ["logits"])
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    known = {one.name for one in session.get_inputs()}
    feed = {name: x.numpy() for name, x in zip(names, given, strict=True) if name in known}
    (logits,) = session.run(["logits"], feed)
    np.testing.assert_allclose(logits, model.decode(features, words).numpy(), atol=1e-4)
