"""Costs against sums by hand, and where weights are looked for."""

from dataclasses import replace
from pathlib import Path

import pytest
from clip_models import open_clip_or_skip, put_in_hub  # noqa: E402

open_clip_or_skip()

import torch  # noqa: E402

from ovs_ros.encoders.model_file import MODEL_FILES, ModelFile, read_model_file  # noqa: E402
from ovs_ros.zoo.survey import count_cost, find_source, is_here  # noqa: E402

PLAIN = ModelFile(model="ViT-B-32", weights="openai", attention="maskclip", patches=12)


def by_hand(patches: int, *, width: int = 768, layers: int = 12, dim: int = 512, patch: int = 32) -> int:
    """Operations of a ViT with MaskCLIP's last layer, where a patch sees itself alone."""
    tokens = patches + 1
    linear = 2 * width * width
    attention = 2 * 2 * tokens * tokens * width
    block = tokens * (4 + 8) * linear + attention
    embedding = patches * 2 * 3 * patch * patch * width
    # Last: keys and values of all; the class token's query, attention and MLP; the patches' values projected.
    one = 2 * linear + 8 * linear + 2 * 2 * tokens * width
    last = tokens * 2 * linear + one + patches * linear
    return embedding + (layers - 1) * block + last + tokens * 2 * width * dim


def test_a_vits_cost_is_the_sum_of_its_products() -> None:
    cost = count_cost(PLAIN, height=96, width=128, words=32)
    assert (cost.height, cost.width) == (96, 128)
    assert cost.flops == by_hand(12)
    assert cost.parameters == 151_277_313  # As OpenAI's ViT-B/32 has.


def test_windows_are_counted_each() -> None:
    windows = count_cost(replace(PLAIN, window=64, stride=32), height=96, width=128, words=32)
    assert windows.flops == 6 * by_hand(4)  # 2 rows of 3 windows of 2 x 2 patches


def test_a_decoder_is_counted_with_its_words() -> None:
    san = ModelFile(model="san-b", patches=64)
    few, many = (count_cost(san, height=128, width=128, words=words) for words in (10, 110))
    # 100 proposals: their cosines with 100 more words, and their masks of 32 x 32 for them.
    assert many.flops - few.flops == 100 * 2 * 100 * (512 + 32 * 32)
    assert many.parameters == few.parameters


def test_counting_leaves_torch_as_it_was() -> None:
    fast = torch.backends.mha.get_fastpath_enabled()
    count_cost(PLAIN, height=96, width=128, words=32)
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert torch.zeros(1).item() == 0.0


def test_weights_are_here_when_all_of_them_are(tmp_path: Path) -> None:
    san = ModelFile(model="san-b", weights=str(tmp_path / "san.pth"))
    clip = ModelFile(model="ViT-B-16", weights="openai", cache=str(tmp_path))
    heads = replace(clip, attention="dinoiser", heads=str(tmp_path / "last.pt"))
    assert not is_here(san) and not is_here(clip) and not is_here(heads)
    (tmp_path / "san.pth").touch()
    put_in_hub(tmp_path, "timm/vit_base_patch16_clip_224.openai", "open_clip_model.safetensors")
    assert is_here(san) and is_here(clip) and not is_here(heads)
    (tmp_path / "last.pt").touch()
    assert is_here(heads)


@pytest.mark.parametrize("model", ["ViT-B-16", "ViT-L-14-280"])  # The second has no tags.
def test_weights_without_a_name_are_not_here(tmp_path: Path, model: str) -> None:
    put_in_hub(tmp_path, "timm/vit_base_patch16_clip_224.openai", "open_clip_model.safetensors")
    assert not is_here(ModelFile(model=model, cache=str(tmp_path)))


@pytest.mark.parametrize("path", sorted(MODEL_FILES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_file_is_valid_and_says_where_its_weights_are(path: Path) -> None:
    file = read_model_file(path)
    assert find_source(file).startswith("https://")
    is_here(file)  # Architectures and tags that open_clip knows, or it raises.


def test_files_of_ones_own_have_no_source(tmp_path: Path) -> None:
    assert find_source(ModelFile(model="ViT-B-16", weights="/mine.safetensors")) == ""
