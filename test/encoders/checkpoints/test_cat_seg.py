"""CAT-Seg's loading from checkpoints with the published keys, and the model as a whole."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
from clip_models import open_clip_or_skip

open_clip = open_clip_or_skip()

import torch  # noqa: E402
from cat_seg_checkpoint import SMALL, published_keys, random_tensors  # noqa: E402

from ovs_ros.encoders.checkpoints import cat_seg  # noqa: E402
from ovs_ros.encoders.checkpoints.cat_seg import CatSeg, load_cat_seg  # noqa: E402
from ovs_ros.encoders.checkpoints.cat_seg_windows import CatSegWindows  # noqa: E402
from ovs_ros.encoders.checkpoints.keys import Checkpoint, map_keys  # noqa: E402
from ovs_ros.encoders.model_file import ModelFile  # noqa: E402

CLIP = "sem_seg_head.predictor.clip_model."


def written(folder: Path, tensors: dict[str, Any], name: str = "model_base.pth") -> ModelFile:
    torch.save({"model": tensors, "iteration": 79999}, folder / name)
    return ModelFile(model="cat-seg-b", weights=str(folder / name))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(cat_seg.SIZES, "cat-seg-b", SMALL)
        return load_cat_seg(written(tmp_path_factory.mktemp("weights"), random_tensors()))


def images(height: int = 64, width: int = 64, batch: int = 1) -> Any:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(5))


def words(count: int) -> Any:
    random = torch.randn(count, 1, SMALL.dim, generator=torch.Generator().manual_seed(6))
    return torch.nn.functional.normalize(random, dim=-1)


# Parameters of OpenAI's ViT-B/16 and ViT-L/14@336px, image and text towers together.
@pytest.mark.parametrize(("name", "parameters"), [("cat-seg-b", 149_620_737), ("cat-seg-l", 427_944_193)])
def test_the_published_architectures_take_the_published_keys(name: str, parameters: int) -> None:
    sizes = cat_seg.SIZES[name]
    with torch.device("meta"):
        model = CatSeg(sizes, name)
        tensors = {key: torch.empty(shape) for key, shape in published_keys(sizes).items()}
    state = map_keys(Checkpoint(Path(), "", tensors), model.state_dict(), cat_seg.RULES, cat_seg.IGNORED)
    assert set(state) == set(model.state_dict())
    assert sum(p.numel() for p in model.clip.parameters()) == parameters
    assert model.clip.visual.conv1.stride == ({"cat-seg-b": 16, "cat-seg-l": 14}[name],) * 2
    assert sizes.resolution // sizes.patch == 24
    assert tensors["sem_seg_head.predictor.transformer.decoder1.conv.double_conv.0.weight"].shape[:2] == (
        64,
        128,
    )
    assert tensors["sem_seg_head.predictor.transformer.decoder2.up.weight"].shape == (64, 48, 2, 2)
    assert tensors["upsample2.weight"].shape == (sizes.width, 128, 4, 4)
    names = {type(module).__name__ for module in model.clip.modules()}
    assert "QuickGELU" in names and "GELU" not in names


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
    assert re.fullmatch(r"cat-seg-b [0-9a-f]{12}", model.name)


def test_separate_projections_end_up_in_their_rows(model: Any) -> None:
    tensors = random_tensors()
    joint = model.clip.transformer.resblocks[1].attn.in_proj_weight
    for rows, which in zip(joint.chunk(3), "qkv", strict=True):
        assert torch.equal(rows, tensors[f"{CLIP}transformer.resblocks.1.attn.{which}_proj_weight"])


def test_missing_and_foreign_keys_come_in_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cat_seg.SIZES, "cat-seg-b", SMALL)
    tensors = random_tensors()
    del tensors["upsample1.bias"], tensors[CLIP + "visual.transformer.resblocks.2.attn.v_proj_weight"]
    tensors["sem_seg_head.predictor.transformer.decoder3.up.weight"] = torch.zeros(1)
    tensors["upsample2.bias"] = torch.zeros(3)
    with pytest.raises(ValueError) as error:
        load_cat_seg(written(tmp_path, tensors))
    message = str(error.value)
    assert "missing: clip.visual.transformer.resblocks.2.attn.in_proj_weight (blocks [2] of 3), " in message
    assert "upsample1.bias" in message
    assert "foreign: sem_seg_head.predictor.transformer.decoder3.up.weight;" in message
    assert "upsample2.bias (expected (8,), got (3,))" in message


def test_a_checkpoint_of_the_other_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="of another shape"):
        load_cat_seg(written(tmp_path, random_tensors()))


def test_no_checkpoint_says_where_to_get_it() -> None:
    with pytest.raises(FileNotFoundError, match=r"curl -LO https://\S+/model_large\.pth"):
        load_cat_seg(ModelFile(model="cat-seg-l", weights="nowhere.pth"))


def test_the_scale_of_cosines_is_the_checkpoint_s(model: Any) -> None:
    assert model.logit_scale == pytest.approx(100)
    assert model.decodes


def test_texts_go_through_the_tuned_tower(model: Any) -> None:
    texts = ["A photo of a cat in the scene", "A photo of a very long dog in the scene"]
    embedded = model.embed_texts(texts)
    reference = open_clip.CLIP(
        32,
        {"image_size": 64, "layers": 4, "width": 64, "head_width": 16, "patch_size": 16},
        {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2},
        quick_gelu=True,
    ).eval()
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


def test_half_precision_is_near(model: Any) -> None:
    half = copy.deepcopy(model).bfloat16()
    logits = half.decode(half.dense(images(80, 112).bfloat16()), words(7).bfloat16()).float()
    expected = model.decode(model.dense(images(80, 112)), words(7))
    assert torch.corrcoef(torch.stack((logits.flatten(), expected.flatten())))[0, 1] > 0.99


def test_a_window_in_the_model_file_means_the_authors_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cat_seg.SIZES, "cat-seg-b", SMALL)
    file = written(tmp_path, random_tensors())
    windows = load_cat_seg(ModelFile(model=file.model, weights=file.weights, window=64, stride=32))
    assert isinstance(windows, CatSegWindows)
    assert windows.name.endswith("windows 64/32")
