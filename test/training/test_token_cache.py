"""Encoded images come back from the cache as they went in, labels in their place."""

from pathlib import Path

import numpy as np
import pytest

from ovs_ros.encoders.dino import DinoEncoder
from ovs_ros.encoders.embedded import GUIDE, MODELS
from ovs_ros.training.token_cache import View, flipped, random_crop, write_cache


@pytest.fixture(scope="module")
def encoder() -> DinoEncoder:
    return DinoEncoder(MODELS / "image_encoder.onnx", np.load(MODELS / "position_table.npy"))


def quadrants(height: int, width: int) -> View:
    """An image whose four quarters have the labels 0 to 3 and colours to match."""
    label = np.zeros((height, width), np.uint8)
    label[:, width // 2 :] += 1
    label[height // 2 :] += 2
    return View(np.repeat(label[..., None] * 60, 3, axis=2), (label,), 7)


def test_cache_keeps_tokens_guide_and_labels(tmp_path: Path, encoder: DinoEncoder) -> None:
    view = quadrants(112, 168)
    write_cache(tmp_path, encoder, lambda: iter([view]), count=1, grid=(8, 12), label_maps=1, title="test")
    scales = np.load(tmp_path / "scales.npy")[..., None].astype(np.float32)
    tokens, want = np.load(tmp_path / "tokens.npy") * scales, encoder.tokens(view.image)
    assert tokens.shape == (1, 97, encoder.width)
    # Half a step, and what float16 takes from a scale (2**-11) for the largest of 127 steps.
    assert (np.abs(tokens[0] - want) <= scales[0] * (0.5 + 127 / 2**11) * 1.001).all()
    np.testing.assert_allclose(127 * scales[0, :, 0], np.abs(want).max(axis=1), rtol=1e-3)
    label = np.load(tmp_path / "label_0.npy")[0]
    assert label.shape == (8 * GUIDE, 12 * GUIDE)
    assert [label[0, 0], label[0, -1], label[-1, 0], label[-1, -1]] == [0, 1, 2, 3]
    guide = np.load(tmp_path / "guide.npy")[0]
    np.testing.assert_array_equal(guide[0, -1], view.image[0, -1])
    assert np.load(tmp_path / "source.npy").tolist() == [7]


def test_padding_is_ignored(tmp_path: Path, encoder: DinoEncoder) -> None:
    view = quadrants(100, 168)
    write_cache(tmp_path, encoder, lambda: iter([view]), count=1, grid=(8, 12), label_maps=1, title="test")
    label = np.load(tmp_path / "label_0.npy")[0]
    assert (label[-6:] == 255).all() and (label[:56] != 255).all()


def test_flipping_turns_labels_with_the_image() -> None:
    view = flipped(quadrants(10, 20))
    np.testing.assert_array_equal(view.image[..., 0] // 60, view.labels[0])
    assert view.labels[0][0, 0] == 1


@pytest.mark.parametrize("seed", range(8))
def test_crops_keep_labels_on_their_pixels(seed: int) -> None:
    view = quadrants(60, 80)
    label = view.labels[0]
    where = np.stack([label, np.arange(label.size).reshape(label.shape) % 251], axis=0).astype(np.uint8)
    crop = random_crop(View(view.image, tuple(where), 0), np.random.default_rng(seed), 0.4)
    shades = [crop.image[crop.labels[0] == value].mean() for value in np.unique(crop.labels[0])]
    assert shades == sorted(shades)
    assert crop.labels[1].shape == crop.image.shape[:2]
    assert min(crop.image.shape[:2]) >= 24
