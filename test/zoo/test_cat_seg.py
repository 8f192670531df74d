"""CAT-Seg's loading from checkpoints with the published keys, and the model as a whole."""

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clip_models import open_clip_or_skip

open_clip = open_clip_or_skip()

import torch  # noqa: E402
from cat_seg_checkpoint import (  # noqa: E402
    CLIPS,
    SMALL,
    SMALL_CLIP,
    published_keys,
    random_tensors,
    small_cat_seg,
    write_checkpoint,
)

from ovs_ros.encoders.checkpoint_keys import Checkpoint, map_keys  # noqa: E402
from ovs_ros.encoders.clip.image_encoder import TorchImageEncoder  # noqa: E402
from ovs_ros.encoders.model_file import ModelFile  # noqa: E402
from ovs_ros.zoo import cat_seg  # noqa: E402
from ovs_ros.zoo.cat_seg import CatSeg, load_cat_seg  # noqa: E402
from ovs_ros.zoo.cat_seg_windows import CatSegWindows  # noqa: E402
from ovs_ros.zoo.families import load_dense_model  # noqa: E402
from ovs_ros.zoo.official import empty_clip  # noqa: E402

CLIP = "sem_seg_head.predictor.clip_model."


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        path = small_cat_seg(tmp_path_factory.mktemp("weights"), patch)
        return load_cat_seg(ModelFile(model="cat-seg-b", weights=str(path)))


def images(height: int = 64, width: int = 64, batch: int = 1) -> Any:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(5))


def words(count: int) -> Any:
    random = torch.randn(count, 1, CLIPS[SMALL.clip].dim, generator=torch.Generator().manual_seed(6))
    return torch.nn.functional.normalize(random, dim=-1)


# Parameters of OpenAI's ViT-B/16 and ViT-L/14@336px, image and text towers together.
@pytest.mark.parametrize(("name", "parameters"), [("cat-seg-b", 149_620_737), ("cat-seg-l", 427_944_193)])
def test_the_published_architectures_take_the_published_keys(name: str, parameters: int) -> None:
    config = cat_seg.CONFIGS[name]
    with torch.device("meta"):
        tensors = {key: torch.empty(shape) for key, shape in published_keys(config).items()}
    model = CatSeg(empty_clip(config.clip), config, name)
    state = map_keys(Checkpoint(Path(), "", tensors), model.state_dict(), cat_seg.RULES, cat_seg.IGNORED)
    assert set(state) == set(model.state_dict())
    assert sum(p.numel() for p in model.clip.parameters()) == parameters
    assert config.resolution // model.stride == 24
    head = "sem_seg_head.predictor.transformer."
    assert tensors[head + "decoder1.conv.double_conv.0.weight"].shape == (64, 128, 3, 3)
    assert tensors[head + "decoder2.up.weight"].shape == (64, 48, 2, 2)
    assert tensors["upsample2.weight"].shape == (CLIPS[config.clip].width, 128, 4, 4)
    activations = {type(module).__name__ for module in model.clip.modules()}
    assert "QuickGELU" in activations and "GELU" not in activations


@pytest.mark.parametrize(
    "key",
    [
        CLIP + "visual.transformer.resblocks.0.attn.k_proj_weight",
        CLIP + "visual.transformer.resblocks.3.attn.v_proj_weight",
        "upsample1.weight",
        "sem_seg_head.predictor.transformer.layers.1.attention.padding_tokens",
        "sem_seg_head.predictor.transformer.head.bias",
    ],
)
def test_what_is_loaded_decides_the_output(model: Any, key: str) -> None:
    tensors = random_tensors()
    other = copy.deepcopy(model)
    same = map_keys(Checkpoint(Path(), "", tensors), model.state_dict(), cat_seg.RULES, cat_seg.IGNORED)
    other.load_state_dict(same)
    before = model.decode(model.dense(images()), words(3))
    assert torch.equal(other.decode(other.dense(images()), words(3)), before)
    tensors[key] += 0.3 * torch.randn(tensors[key].shape, generator=torch.Generator().manual_seed(1))
    changed = map_keys(Checkpoint(Path(), "", tensors), model.state_dict(), cat_seg.RULES, cat_seg.IGNORED)
    other.load_state_dict(changed)
    assert (other.decode(other.dense(images()), words(3)) - before).abs().max() > 1e-5


def test_a_loaded_model_is_frozen_whole_and_named_after_its_file(model: Any) -> None:
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    assert re.fullmatch(r"cat-seg-b-[0-9a-f]{12}", model.name)


def test_separate_projections_end_up_in_their_rows(model: Any) -> None:
    tensors = random_tensors()
    joint = model.clip.transformer.resblocks[1].attn.in_proj_weight
    for rows, which in zip(joint.chunk(3), "qkv", strict=True):
        assert torch.equal(rows, tensors[f"{CLIP}transformer.resblocks.1.attn.{which}_proj_weight"])


# Each eighth row and column of what the authors' code (commit 6d3a188, with their pooling of 1 for inference)
# gives for these weights, image and texts.
AUTHORS = [
    [-0.59274, -0.6507, -0.50525, 0.18812, -0.53992, -0.06027, 0.3355, -0.72135, -0.46047],
    [-0.59348, -0.65124, -0.50501, 0.18791, -0.54117, -0.0636, 0.33518, -0.72308, -0.4628],
    [-0.5746, -0.63237, -0.50841, 0.19446, -0.50854, -0.00644, 0.34265, -0.68606, -0.41189],
]


def test_logits_are_those_of_the_authors_code(model: Any) -> None:
    image = np.random.RandomState(1).standard_normal((1, 3, 96, 96)).astype(np.float32)
    texts = model.embed_texts([model.templates[0].format(name) for name in ("cat", "wall", "red mug")])
    logits = model.decode(model.dense(torch.from_numpy(image)), texts[:, None])
    np.testing.assert_allclose(logits[:, ::8, ::8].flatten(1), AUTHORS, atol=2e-4)


def test_missing_and_foreign_keys_come_in_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small_cat_seg(tmp_path, monkeypatch)
    tensors = random_tensors()
    del tensors["upsample1.bias"], tensors[CLIP + "visual.transformer.resblocks.2.attn.v_proj_weight"]
    tensors["sem_seg_head.predictor.transformer.decoder3.up.weight"] = torch.zeros(1)
    tensors["upsample2.bias"] = torch.zeros(3)
    write_checkpoint(tmp_path, tensors)
    with pytest.raises(ValueError) as error:
        load_cat_seg(ModelFile(model="cat-seg-b", weights=str(path)))
    message = str(error.value)
    assert "missing: clip.visual.transformer.resblocks.2.attn.in_proj_weight (blocks [2] of 3), " in message
    assert "upsample1.bias" in message
    assert "foreign: sem_seg_head.predictor.transformer.decoder3.up.weight;" in message
    assert "upsample2.bias (expected (8,), got (3,))" in message


def test_no_checkpoint_says_where_to_get_it() -> None:
    with pytest.raises(FileNotFoundError, match=r"curl -LO https://\S+/model_large\.pth"):
        load_cat_seg(ModelFile(model="cat-seg-l", weights="nowhere.pth"))


def test_the_scale_of_cosines_is_the_checkpoint_s(model: Any) -> None:
    assert model.logit_scale == pytest.approx(100)
    assert model.decodes


def test_texts_go_through_the_tuned_tower(model: Any) -> None:
    texts = ["A photo of a cat in the scene", "A photo of a very long dog in the scene"]
    embedded = model.embed_texts(texts)
    reference = open_clip.CLIP(**SMALL_CLIP).eval()
    state = {key.removeprefix("clip."): t for key, t in model.state_dict().items() if key.startswith("clip.")}
    reference.load_state_dict(state)
    with torch.inference_mode():
        expected = reference.encode_text(open_clip.SimpleTokenizer()(texts), normalize=True)
    torch.testing.assert_close(embedded, expected)
    assert embedded.norm(dim=-1).tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize("count", [1, 7, 40])
@pytest.mark.parametrize("grid", [(4, 4), (2, 5), (7, 6), (1, 1)])
def test_any_number_of_words_on_any_grid(model: Any, count: int, grid: tuple[int, int]) -> None:
    h, w = grid
    features = model.dense(images(16 * h, 16 * w))
    assert features.patches.shape == (1, h, w, 32) and features.image.shape == (1, 32)
    torch.testing.assert_close(features.patches.norm(dim=-1), torch.ones(1, h, w))
    logits = model.decode(features, words(count))
    assert logits.shape == (count, 4 * h, 4 * w)
    assert logits.isfinite().all()


@pytest.mark.parametrize("count", [7, 40])
def test_permuting_words_permutes_logits(model: Any, count: int) -> None:
    features = model.dense(images())
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    logits = model.decode(features, words(count))
    torch.testing.assert_close(
        model.decode(features, words(count)[order]), logits[order], atol=1e-5, rtol=1e-4
    )
    assert (logits[0] - logits[1]).abs().max() > 1e-3


def test_words_of_zeros_change_nothing(model: Any) -> None:
    features = model.dense(images())
    filled = torch.zeros(12, 1, 32)
    filled[[0, 1, 2, 5, 6]] = words(5)
    logits = model.decode(features, filled)[[0, 1, 2, 5, 6]]
    torch.testing.assert_close(logits, model.decode(features, words(5)), atol=1e-5, rtol=1e-4)


def test_words_may_come_in_several_prompts_and_at_any_scale(model: Any) -> None:
    features = model.dense(images())
    twice = words(4).repeat(1, 2, 1)
    torch.testing.assert_close(
        model.decode(features, 30 * twice), model.decode(features, words(4)), atol=1e-5, rtol=1e-4
    )


def test_images_of_a_batch_do_not_mix(model: Any) -> None:
    both, second = model.dense(images(batch=2)), model.dense(images(batch=2)[1:])
    torch.testing.assert_close(both.patches[1:], second.patches, atol=1e-5, rtol=1e-4)
    for mixed, alone in zip(both.decoding, second.decoding, strict=True):
        torch.testing.assert_close(mixed[1:], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_serves_as_an_image_encoder(model: Any, precision: str) -> None:
    image = np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)
    encoder = TorchImageEncoder(copy.deepcopy(model), patches=48, device="cpu", precision=precision)
    features = encoder.encode(image)
    assert features.patch_tokens.shape == (6, 8, 32)
    embedded = words(7)[:, 0].numpy()
    logits = features.logits(embedded)
    assert logits.shape == features.grid + (7,) == (24, 32, 7)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (model.mean, model.std))
    expected = model.decode(model.dense((pixels - mean) / std), words(7)).permute(1, 2, 0)
    if precision == "fp32":
        np.testing.assert_allclose(logits, expected, atol=1e-4)
    assert np.corrcoef(logits.ravel(), expected.ravel())[0, 1] > 0.99


def test_a_window_in_the_model_file_means_the_authors_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small_cat_seg(tmp_path, monkeypatch)
    windows = load_dense_model(ModelFile(model="cat-seg-b", weights=str(path), window=64, stride=32))
    assert isinstance(windows, CatSegWindows)
    assert windows.name.endswith("-windows64-32")
    # It was trained on COCO-Stuff, and tag validation is told so.
    assert len(windows.trained_names) == 171 and "traffic light" in windows.trained_names
