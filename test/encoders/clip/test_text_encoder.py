"""Texts are embedded as open_clip embeds them, in batches, with the templates that a model file names."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[clip]')")

from clip_models import open_clip_or_skip, small_clip  # noqa: E402

open_clip = open_clip_or_skip()

from ovs_ros.encoders.clip import text_encoder  # noqa: E402
from ovs_ros.encoders.clip.clip_model import ClipModel  # noqa: E402
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
