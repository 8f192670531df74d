"""Models of open_clip, built and loaded as the published ones are: their features are the model's own."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from ovs_ros.encoders.model_file import ModelFile

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[clip]')")

from clip_models import open_clip_or_skip, register_small  # noqa: E402

open_clip = open_clip_or_skip()

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from ovs_ros.encoders.clip import timm_towers  # noqa: E402
from ovs_ros.encoders.clip.clip_model import ClipModel, without_values  # noqa: E402
from ovs_ros.encoders.clip.open_clip_models import build_clip, load_open_clip, tower_kind  # noqa: E402
from ovs_ros.encoders.clip.timm_towers import ConvolutionalClip, SigLip, TimmViT  # noqa: E402
from ovs_ros.encoders.clip.weights import architecture  # noqa: E402

KINDS = ("vit", "siglip", "mobileclip-vit", "mobileclip", "convnext", "convnext-mlp")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@cache
def saved(folder: Path, kind: str) -> tuple[nn.Module, ModelFile]:
    """open_clip's own model of a kind, with weights that a file holds as well."""
    name = register_small(folder, kind)
    clip = build_clip(name)
    generator = torch.Generator().manual_seed(0)
    for module in clip.modules():  # statistics of batches that are not those of a new model
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    torch.save(clip.state_dict(), folder / f"{kind}.pt")
    return clip, ModelFile(model=name, weights=str(folder / f"{kind}.pt"))


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, folder: Path) -> tuple[str, nn.Module, ClipModel]:
    clip, file = saved(folder, request.param)
    return request.param, clip, load_open_clip(file)


def images(model: ClipModel, rows: int, columns: int, count: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, rows * model.stride, columns * model.stride, generator=generator)


def test_networks_are_made_without_values_where_rates_are_read_off_a_tensor() -> None:
    """As timm 1.0.9 does while it makes a network."""
    with without_values(), without_values():
        assert nn.Linear(2, 2).weight.is_meta
        assert torch.linspace(0, 1, 3).tolist() == [0.0, 0.5, 1.0]


@torch.inference_mode()
def test_the_image_embedding_is_the_models_own(pair: tuple[str, nn.Module, ClipModel]) -> None:
    _, clip, model = pair
    square = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        model.dense(square).image, F.normalize(clip.encode_image(square), dim=-1), atol=1e-5, rtol=0
    )


@torch.inference_mode()
def test_any_grid_gives_one_unit_embedding_a_patch(pair: tuple[str, nn.Module, ClipModel]) -> None:
    _, _, model = pair
    for rows, columns in ((2, 5), (3, 1)):
        features = model.dense(images(model, rows, columns, count=2))
        assert features.patches.shape == (2, rows, columns, model.dim)
        assert features.image.shape == (2, model.dim)
        torch.testing.assert_close(features.patches.norm(dim=-1), torch.ones(2, rows, columns))
        assert features.patches.std(dim=(1, 2)).max() > 1e-4  # patches differ


@torch.inference_mode()
def test_texts_are_embedded_as_open_clip_does(pair: tuple[str, nn.Module, ClipModel]) -> None:
    _, clip, model = pair
    texts = ["a photo of a dog.", "traffic light"]
    tokens = open_clip.SimpleTokenizer(context_length=16)(texts)
    torch.testing.assert_close(
        model.embed_texts(texts), F.normalize(clip.encode_text(tokens), dim=-1), atol=1e-6, rtol=0
    )
    assert model.logit_scale == pytest.approx(float(clip.logit_scale.exp()))


@torch.inference_mode()
def test_a_convolutional_patch_is_the_head_over_its_position(folder: Path) -> None:
    for kind in ("convnext", "convnext-mlp", "mobileclip"):
        clip, file = saved(folder, kind)
        model = load_open_clip(file)
        pixels = images(model, 2, 3)
        last = clip.visual.trunk.forward_features(pixels)  # (1, C, 2, 3)
        got = model.dense(pixels).patches
        for row in range(2):
            for column in range(3):
                alone = last[:, :, row : row + 1, column : column + 1]
                want = F.normalize(clip.visual.head(clip.visual.trunk.forward_head(alone)), dim=-1)
                torch.testing.assert_close(got[:, row, column], want, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_a_linear_heads_mean_over_patches_is_the_image(folder: Path) -> None:
    clip, file = saved(folder, "mobileclip")
    model = load_open_clip(file)
    pixels = images(model, 2, 4)
    each = clip.visual.trunk.forward_features(pixels).permute(0, 2, 3, 1) @ clip.visual.trunk.head.fc.weight.T
    mean = F.normalize((each + clip.visual.trunk.head.fc.bias).mean((1, 2)), dim=-1)
    torch.testing.assert_close(model.dense(pixels).image, mean, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_siglips_patch_is_its_pooling_head_over_that_patch(folder: Path) -> None:
    clip, file = saved(folder, "siglip")
    model = load_open_clip(file)
    pixels = images(model, 4, 4)
    tokens = clip.visual.trunk.forward_features(pixels)
    got = model.dense(pixels).patches.flatten(1, 2)
    for index in range(16):
        want = F.normalize(clip.visual.trunk.attn_pool(tokens[:, index : index + 1]), dim=-1)
        torch.testing.assert_close(got[:, index], want, atol=1e-5, rtol=0)
    assert clip.logit_bias == -10  # the same for all categories: no softmax over them sees it


@torch.inference_mode()
def test_plain_attention_of_a_timm_vit_is_its_own_forward_pass(folder: Path) -> None:
    clip, file = saved(folder, "mobileclip-vit")
    model = load_open_clip(ModelFile(model=file.model, weights=file.weights, attention="plain"))
    pixels = images(model, 4, 4)
    tokens = clip.visual.trunk.forward_features(pixels)[:, 1:]
    want = F.normalize(clip.visual.trunk.head(tokens), dim=-1)
    torch.testing.assert_close(model.dense(pixels).patches.flatten(1, 2), want, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_attention_of_a_timm_vit_is_a_choice(folder: Path) -> None:
    _, file = saved(folder, "mobileclip-vit")
    found = {}
    for attention in ("naclip", "maskclip", "sclip", "clearclip", "plain"):
        model = load_open_clip(ModelFile(model=file.model, weights=file.weights, attention=attention))
        assert model.name.endswith(attention)
        found[attention] = model.dense(images(model, 3, 4)).patches
    names = list(found)
    for index, name in enumerate(names):
        for other in names[index + 1 :]:
            assert (found[name] - found[other]).abs().max() > 1e-3, (name, other)


@torch.inference_mode()
def test_the_window_is_kept_in_the_precision_of_the_keys(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where autocast leaves tokens in float32, as a norm before the blocks does on GPUs, keys are in less."""
    _, file = saved(folder, "mobileclip-vit")
    asked: list[torch.dtype] = []
    window = timm_towers.gaussian_window
    monkeypatch.setattr(
        timm_towers, "gaussian_window", lambda grid, like: asked.append(like.dtype) or window(grid, like)
    )
    model = load_open_clip(file)
    model.clip.visual.trunk.blocks[-2].register_forward_hook(lambda block, given, out: out.float())
    with torch.autocast("cpu", torch.bfloat16):
        model.dense(images(model, 3, 4))
    assert asked == [torch.bfloat16]


def test_choices_that_a_model_does_not_offer_are_refused(folder: Path) -> None:
    _, conv = saved(folder, "convnext")
    _, vit = saved(folder, "mobileclip-vit")
    with pytest.raises(ValueError, match="no choice of attention for small-convnext.*got 'sclip'"):
        load_open_clip(ModelFile(model=conv.model, weights=conv.weights, attention="sclip"))
    with pytest.raises(ValueError, match="expected attention to be one of naclip.*got 'scclip'"):
        load_open_clip(ModelFile(model=vit.model, weights=vit.weights, attention="scclip"))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("RN50", "its ResNet pools by attention"),
        ("coca_ViT-B-32", "CoCa"),
        ("roberta-ViT-B-32", "the package transformers"),
        ("EVA02-B-16", "eva02_base_patch16_clip_224"),
    ],
)
def test_architectures_without_dense_features_are_refused(model: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"gives dense features, got {model}: .*{reason}"):
        load_open_clip(ModelFile(model=model, weights="openai"))


def test_every_published_architecture_of_the_four_families_is_taken() -> None:
    refused = []
    for model in open_clip.list_models():
        if model.startswith(("RN", "coca", "EVA", "PE-", "ViTamin", "swin", "vit_", "mt5", "nllb", "xlm")):
            continue
        try:
            tower_kind(model)
        except ValueError:
            refused.append(model)
    assert refused == ["roberta-ViT-B-32"]


def test_normalisation_and_scale_are_the_weights(folder: Path) -> None:
    _, file = saved(folder, "vit")
    model = load_open_clip(file)
    assert model.mean == open_clip.OPENAI_DATASET_MEAN
    assert model.std == open_clip.OPENAI_DATASET_STD
    assert model.logit_scale == pytest.approx(1 / 0.07, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_file_gives_a_pair_of_encoders(folder: Path, kind: str) -> None:
    from ovs_ros.load import open_model

    _, file = saved(folder, kind)
    picture = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    found = {}
    for precision in ("fp32", "bf16"):
        opened = open_model(replace(file, precision=precision, device="cpu", patches=12))
        image, text = opened.image_encoder, opened.text_encoder
        found[precision] = image.encode(picture).patch_tokens
        words = text.encode(["dog"] * 3)
        assert words.shape == (3, image.dim)
    assert found["fp32"].shape[0] * found["fp32"].shape[1] <= 12
    assert (found["fp32"] * found["bf16"]).sum(-1).min() > 0.99


@pytest.mark.parametrize(
    ("model", "stride"),
    [
        ("ViT-SO400M-14-SigLIP-384", 14),
        ("ViT-B-16-SigLIP2", 16),
        ("convnext_large_d_320", 32),
        ("MobileCLIP-S1", 32),
        ("MobileCLIP2-S3", 64),
        ("MobileCLIP-B", 16),
    ],
)
def test_published_architectures_fit_in_full_size(model: str, stride: int) -> None:
    """Shapes alone: on the device 'meta' there are no numbers to hold or to compute."""
    makes = {"siglip": SigLip, "convolutional": ConvolutionalClip, "timm ViT": TimmViT}
    with torch.device("meta"):
        clip = build_clip(model)
    clip.logit_scale = nn.Parameter(torch.tensor(2.0))
    dim = architecture(model)["embed_dim"]
    dense = makes[tower_kind(model)](clip, name=model, dim=dim, tokenizer=list)
    features = dense.dense(torch.empty(1, 3, 2 * stride, 3 * stride, device="meta"))
    assert dense.stride == stride
    assert features.patches.shape == (1, 2, 3, dim)
    assert features.image.shape == (1, dim)
