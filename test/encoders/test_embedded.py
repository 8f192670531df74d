"""The embedded model: any image goes in, any text, and one does not change the other's result."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from onnx_encoders import save_encoder

from ovs_ros.encoders import minilm
from ovs_ros.encoders.embedded import MODELS, EmbeddedTextEncoder, load
from ovs_ros.encoders.multi_scale import MultiScaleImageEncoder
from ovs_ros.encoders.pyramid import PyramidImageEncoder
from ovs_ros.vocabulary.category import CategorySpec
from ovs_ros.vocabulary.knowledge import load_knowledge

TEXTS = ("road", "street", "a photo of a dog", "an old man rides a bicycle in the rain", "Kühlschrank", "x")


def test_a_text_does_not_depend_on_its_neighbours() -> None:
    encoder = EmbeddedTextEncoder()
    together = encoder.encode(TEXTS)
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-5)


def test_texts_are_embedded_alike_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "IDLE_S", 0.0)  # The network is closed as soon as it has run.
    encoder = EmbeddedTextEncoder()
    first, again = encoder.encode(TEXTS), encoder.encode(TEXTS)
    np.testing.assert_array_equal(first, again)


def test_a_file_that_changed_meanwhile_is_not_opened_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(minilm, "IDLE_S", 0.0)
    for name in ("text_encoder.onnx", "tokenizer.json"):
        shutil.copyfile(MODELS / name, tmp_path / name)
    encoder = minilm.SentenceEncoder(tmp_path)
    (tmp_path / "text_encoder.onnx").write_bytes(b"another")
    with pytest.raises(ValueError, match=r"text_encoder\.onnx as it was when the model was loaded"):
        for _ in range(10_000):  # Until the network is closed.
            encoder.encode(TEXTS[:1])


@pytest.mark.parametrize("shape", [(480, 640), (640, 480), (97, 33), (1080, 1920), (32, 32), (3, 500)])
def test_any_image_size_goes_in(shape: tuple[int, int]) -> None:
    encoder = PyramidImageEncoder(MODELS, cells=30)
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    features = encoder.encode(image)
    gh, gw, dim = features.patch_tokens.shape
    assert gh * gw <= 4 * 30 and dim == encoder.dim == features.class_token.shape[0]
    assert features.grid == (4 * gh, 4 * gw)
    np.testing.assert_allclose(np.linalg.norm(features.patch_tokens, axis=-1), 1.0, atol=1e-4)
    cosine = features.logits(features.patch_tokens[0, :2])
    assert cosine.shape == (4 * gh, 4 * gw, min(2, gw)) and np.isfinite(cosine).all()


def test_one_images_padding_does_not_leak_into_the_next() -> None:
    encoder, fresh = (PyramidImageEncoder(MODELS, cells=30) for _ in range(2))
    rng = np.random.default_rng(1)
    first, second = (rng.integers(0, 256, (100, 137, 3), np.uint8) for _ in range(2))
    encoder.encode(first)
    again, fresh = (
        one.encode(second).patch_tokens for one in (encoder, PyramidImageEncoder(MODELS, cells=30))
    )
    np.testing.assert_array_equal(again, fresh)


def test_a_resized_encoder_is_as_one_of_that_size_and_keeps_its_name() -> None:
    image = np.random.default_rng(2).integers(0, 256, (90, 120, 3), np.uint8)
    encoder = PyramidImageEncoder(MODELS, cells=30)
    name, own = encoder.name, encoder.encode(image).patch_tokens
    encoder.resize(51)  # 12 cells of 4 patches
    assert encoder.patches == 48 and encoder.name == name
    smaller = PyramidImageEncoder(MODELS, cells=12).encode(image)
    np.testing.assert_array_equal(encoder.encode(image).patch_tokens, smaller.patch_tokens)
    both = MultiScaleImageEncoder([encoder, PyramidImageEncoder(MODELS, cells=30)])
    both.resize(60)
    assert (encoder.patches, both.patches) == (24, 60)
    encoder.resize(120)
    np.testing.assert_array_equal(encoder.encode(image).patch_tokens, own)


def test_an_unknown_model_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="stream, quality"):
        load("fast")


def test_files_of_another_model_are_refused(tmp_path: Path) -> None:
    save_encoder(tmp_path / "image_encoder.onnx")
    with pytest.raises(ValueError, match=r"hidden in .*image_encoder\.onnx, got .*'ovs train embedded'"):
        load("stream", models=tmp_path)


def test_all_files_together_stay_under_60_megabytes() -> None:
    assert sum(file.stat().st_size for file in MODELS.iterdir()) < 60e6


def test_the_model_tells_what_it_was_shown_of_words() -> None:
    known = load_knowledge(MODELS)
    assert {"wall", "night stand", "bicyclist", "fire extinguisher"} <= known.labels
    assert {"dog", "snowboarder"} <= known.captions
    assert not {"quasar", "unknown"} & (known.labels | known.captions)
    shown = {name: known.shown(CategorySpec(name)) for name in ("chairs", "snowboarders", "quasar")}
    assert shown == {"chairs": "labels", "snowboarders": "captions", "quasar": "text"}
