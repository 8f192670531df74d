"""Fusion of a second encoder's map into the first encoder's patches."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import ColorImageEncoder, ColorTextEncoder, color_image, color_segmenter
from onnx_encoders import save_encoder

from ovs_ros.encoders.feature_map import FeatureMap, FeatureMapEncoder, MapInput
from ovs_ros.encoders.features import Features
from ovs_ros.encoders.fusion import FusedImageEncoder, FusionWeights, with_second
from ovs_ros.encoders.multi_scale import MultiScaleImageEncoder
from ovs_ros.vocabulary.vocabulary import Vocabulary

DIM, CHANNELS = ColorImageEncoder.dim, 8
IMAGE = color_image([["red", "blue", "green"], ["white", "red", "black"]], 24)  # (48, 72, 3): padded to 48x80


@pytest.fixture
def second(tmp_path: Path) -> FeatureMapEncoder:
    save_encoder(tmp_path / "e.onnx", channels=CHANNELS)
    return FeatureMapEncoder(tmp_path / "e.onnx")


def weights(second: FeatureMapEncoder, w: float, seed: int = 0) -> FusionWeights:
    rng = np.random.default_rng(seed)
    return FusionWeights(
        w,
        rng.standard_normal((CHANNELS, DIM)).astype(np.float32),
        rng.standard_normal(DIM).astype(np.float32),
        MapInput(),
        second.digest,
    )


def run(encoder: FusedImageEncoder | ColorImageEncoder | MultiScaleImageEncoder) -> Features:
    return encoder.encode(IMAGE)


def test_all_weight_on_the_first_changes_nothing(second: FeatureMapEncoder) -> None:
    plain, fused = (
        run(e)
        for e in (ColorImageEncoder(), FusedImageEncoder(ColorImageEncoder(), second, weights(second, 1.0)))
    )
    words = ColorTextEncoder().encode(["red", "blue"])
    np.testing.assert_allclose(fused.patch_tokens, plain.patch_tokens, atol=1e-6)
    np.testing.assert_allclose(fused.logits(words), plain.logits(words), atol=1e-6)
    np.testing.assert_array_equal(fused.class_token, plain.class_token)


@pytest.mark.parametrize("w", [0.0, 0.3])
def test_patches_and_pixels_are_mixed_and_brought_to_unit_norm(
    second: FeatureMapEncoder, w: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A map that is the same everywhere: resizing it changes nothing.
    vector = np.arange(CHANNELS, dtype=np.float32)
    flat = FeatureMap(np.broadcast_to(vector, (4, 4, CHANNELS)).copy(), (0.7, 1.0))
    monkeypatch.setattr(second, "encode", lambda image: flat)
    learned = weights(second, w)
    fused = run(FusedImageEncoder(ColorImageEncoder(), second, learned))
    plain = run(ColorImageEncoder())
    words = np.eye(DIM, dtype=np.float32)
    for got, before in (
        (fused.patch_tokens, plain.patch_tokens),
        (fused.logits(words) / fused.logit_scale, plain.logits(words) / plain.logit_scale),
    ):
        mixed = w * before + (1 - w) * (vector @ learned.projection + learned.bias)
        np.testing.assert_allclose(
            got, mixed / np.linalg.norm(mixed, axis=-1, keepdims=True), rtol=1e-4, atol=1e-5
        )


def test_maps_are_laid_over_the_same_part_of_the_image(
    second: FeatureMapEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The map's channels 0 and 1 are its own coordinates (0 to 1 over the image), sampled in the first's grid.
    side = 64
    valid = (48 / 72, 1.0)
    ys, xs = ((np.arange(side, dtype=np.float32) + 0.5) / (side * e) for e in valid)
    values = np.zeros((side, side, CHANNELS), np.float32)
    values[..., 0], values[..., 1] = ys[:, None], xs
    monkeypatch.setattr(second, "encode", lambda image: FeatureMap(values, valid))
    projection = np.zeros((CHANNELS, DIM), np.float32)
    projection[0, 0] = projection[1, 1] = 1
    bias = np.zeros(DIM, np.float32)
    bias[2] = 1
    learned = FusionWeights(0.0, projection, bias, MapInput(), second.digest)
    patches = run(FusedImageEncoder(ColorImageEncoder(), second, learned)).patch_tokens
    y, x = patches[..., 0] / patches[..., 2], patches[..., 1] / patches[..., 2]
    np.testing.assert_allclose(y[:, 0], [8 / 48, 24 / 48, 40 / 48], atol=1e-4)
    np.testing.assert_allclose(x[0, :4], [8 / 72, 24 / 72, 40 / 72, 56 / 72], atol=1e-4)


def test_several_scales_are_fused_one_by_one(second: FeatureMapEncoder) -> None:
    learned = weights(second, 0.6)
    both = MultiScaleImageEncoder([ColorImageEncoder(), ColorImageEncoder()])
    words = ColorTextEncoder().encode(["red", "blue", "green"])
    one = run(FusedImageEncoder(ColorImageEncoder(), second, learned))
    two = run(FusedImageEncoder(both, second, learned))
    np.testing.assert_allclose(two.logits(words), one.logits(words), rtol=1e-5, atol=1e-5)


def test_a_segmenter_takes_the_fused_encoder(tmp_path: Path, second: FeatureMapEncoder) -> None:
    weights(second, 1.0).save(tmp_path / "f.npz")
    plain = color_segmenter()
    encoder = with_second(plain.model.image_encoder, tmp_path / "e.onnx", str(tmp_path / "f.npz"))
    fused = replace(plain, model=replace(plain.model, image_encoder=encoder))
    assert fused.model.name == "fake-colours&e"
    words = plain.embed(Vocabulary.from_names(["red", "blue", "green", "white", "black"]))
    np.testing.assert_array_equal(fused.segment(IMAGE, words).labels, plain.segment(IMAGE, words).labels)


def test_weights_come_back_as_they_were_saved(tmp_path: Path, second: FeatureMapEncoder) -> None:
    wanted = MapInput((32, 64), (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), "map")
    first = weights(second, 0.25)
    saved = FusionWeights(first.weight, first.projection, first.bias, wanted, "digest")
    saved.save(tmp_path / "f.npz")
    read = FusionWeights.load(tmp_path / "f.npz")
    assert (read.wanted, read.digest) == (wanted, "digest")
    for name in ("weight", "projection", "bias"):
        np.testing.assert_array_equal(getattr(read, name), getattr(saved, name))


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path, second: FeatureMapEncoder) -> None:
    first, file = ColorImageEncoder(), tmp_path / "f.npz"
    assert with_second(first, "off", "off") is first
    with pytest.raises(ValueError, match="expected a second encoder and its .* got the encoder alone"):
        with_second(first, "e.onnx", "off")
    with pytest.raises(ValueError, match="got the weights alone"):
        with_second(first, "off", "f.npz")
    with pytest.raises(FileNotFoundError, match="expected fusion weights at .* found none"):
        with_second(first, "e.onnx", str(file))
    file.write_text("no weights")
    with pytest.raises(ValueError, match="expected (a file of 'ovs train fusion'|fusion weights) in"):
        with_second(first, "e.onnx", str(file))
    np.savez(file, weight=1, other=2)
    with pytest.raises(ValueError, match="expected a file of 'ovs train fusion' in .*size"):
        with_second(first, "e.onnx", str(file))
    save_encoder(tmp_path / "other.onnx", channels=CHANNELS, stride=8)
    weights(second, 0.5).save(file)
    with pytest.raises(ValueError, match="expected the second encoder that the fusion was trained with"):
        with_second(first, tmp_path / "other.onnx", file)
    save_encoder(tmp_path / "other.onnx", channels=CHANNELS + 1)
    with pytest.raises(ValueError, match="expected fusion weights from 9 channels of other to 48 dimensions"):
        with_second(first, tmp_path / "other.onnx", file)


@pytest.mark.parametrize(
    ("w", "bias", "message"),
    [
        (0.5, np.zeros(DIM + 1, np.float32), "expected shapes"),
        (1.5, np.zeros(DIM, np.float32), "w from 0 to 1"),
        (0.5, np.full(DIM, np.nan, np.float32), "expected finite"),
    ],
)
def test_impossible_weights_are_refused(w: float, bias: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FusionWeights(w, np.zeros((CHANNELS, DIM), np.float32), bias, MapInput(), "")
