"""Texts are embedded as open_clip embeds them, in batches, with the templates that a model file names."""

import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[clip]')")

from clip_models import open_clip_or_skip, small_clip  # noqa: E402

open_clip = open_clip_or_skip()

from ovs_ros.encoders.clip import text_encoder  # noqa: E402
from ovs_ros.encoders.clip.clip_model import ClipModel  # noqa: E402
from ovs_ros.encoders.clip.image_encoder import TorchImageEncoder  # noqa: E402
from ovs_ros.encoders.clip.text_encoder import ClipTextEncoder, imagenet_templates  # noqa: E402


@pytest.fixture(scope="module")
def model() -> ClipModel:
    clip, tokenizer = small_clip()
    return ClipModel(clip, name="small 0123abcd", dim=32, stride=16, tokenizer=tokenizer)


def test_embeddings_are_open_clips_own(model: ClipModel) -> None:
    texts = ["a photo of a dog.", "a traffic light", "x" * 400]
    with torch.inference_mode():
        tokens = open_clip.SimpleTokenizer(context_length=77)(texts)
        want = model.clip.encode_text(tokens, normalize=True).numpy()
    got = ClipTextEncoder(model).encode(texts)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_batches_change_nothing_and_keep_the_order(model: ClipModel, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"thing {number}" for number in range(7)]
    want = ClipTextEncoder(model).encode(texts)
    sizes = []
    embed = model.embed_texts
    monkeypatch.setattr(model, "embed_texts", lambda batch: sizes.append(len(batch)) or embed(batch))
    monkeypatch.setattr(text_encoder, "BATCH", 3)
    np.testing.assert_allclose(ClipTextEncoder(model).encode(texts), want, atol=1e-6)
    assert sizes == [3, 3, 1]


def test_a_full_memory_halves_the_batches(model: ClipModel, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"thing {number}" for number in range(7)]
    want = ClipTextEncoder(model).encode(texts)
    sizes = []
    embed = model.embed_texts

    def full(batch: list[str]) -> torch.Tensor:
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return embed(batch)

    monkeypatch.setattr(model, "embed_texts", full)
    encoder = ClipTextEncoder(model)
    np.testing.assert_allclose(encoder.encode(texts[:6]), want[:6], atol=1e-6)
    assert sizes == [6, 3, 1, 1, 1, 1, 1, 1]
    sizes.clear()
    encoder.encode(texts)
    assert sizes == [1] * 7


def test_a_full_memory_for_one_text_is_an_error(model: ClipModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(batch: list[str]) -> torch.Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(model, "embed_texts", full)
    with pytest.raises(RuntimeError, match="out of memory"):
        ClipTextEncoder(model).encode(["a", "b", "c"])


def test_the_model_stays_on_its_device_while_texts_are_embedded(
    model: ClipModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames bring it to the CPU when a GPU is full, and the text tower needs its weights in one place."""
    moved = threading.Event()
    move, embed = model.to, model.embed_texts
    settings = {"patches": 16, "device": "cpu", "precision": "fp32"}
    mover = threading.Thread(target=TorchImageEncoder, args=(model,), kwargs=settings)

    def moving(*args: object, **options: object) -> ClipModel:
        there = move(*args, **options)
        moved.set()
        return there

    def embedding(batch: list[str]) -> torch.Tensor:
        mover.start()
        assert not moved.wait(0.3)
        return embed(batch)

    monkeypatch.setattr(model, "to", moving)
    monkeypatch.setattr(model, "embed_texts", embedding)
    ClipTextEncoder(model).encode(["a"])
    mover.join(10)
    assert moved.is_set()


def test_no_texts_give_no_rows(model: ClipModel) -> None:
    assert ClipTextEncoder(model).encode([]).shape == (0, 32)


def test_templates_are_clips_eighty_unless_a_file_names_others(model: ClipModel) -> None:
    assert len(imagenet_templates()) == 80
    assert imagenet_templates()[0] == "a bad photo of a {}."
    assert all(template.count("{}") == 1 for template in imagenet_templates())
    assert ClipTextEncoder(model).templates == imagenet_templates()
    assert ClipTextEncoder(model, ("this is a {}",)).templates == ("this is a {}",)


def test_the_name_is_the_models_so_that_caches_tell_models_apart(model: ClipModel) -> None:
    assert ClipTextEncoder(model).name == "small 0123abcd"
