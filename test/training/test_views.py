"""Views keep labels on their pixels, and a cache gives back what went in."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovs_ros.training.cache import Cache, write_cache
from ovs_ros.training.data import IGNORE
from ovs_ros.training.views import View, random_crop, random_view


def test_a_cache_gives_back_what_went_in_and_is_written_once(tmp_path: Path) -> None:
    def records(start: int):
        for i in range(3):
            yield {"image": np.full((2, 4), start + i, np.float16), "label_0": np.array([i], np.uint8)}

    write_cache(tmp_path / "cache", records(5), count=3)
    write_cache(tmp_path / "cache", records(9), count=3)
    cache = Cache(tmp_path / "cache")
    assert len(cache) == 3
    assert cache["image"].shape == (3, 2, 4) and cache["image"][:, 0, 0].tolist() == [5, 6, 7]
    assert [labels.tolist() for labels in cache.labels] == [[[0], [1], [2]]]


def test_a_cache_that_was_not_finished_is_written_again(tmp_path: Path) -> None:
    def broken():
        yield {"image": np.zeros(3)}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_cache(tmp_path / "cache", broken(), count=2)
    write_cache(tmp_path / "cache", iter([{"image": np.ones(3)}] * 2), count=2)
    assert Cache(tmp_path / "cache")["image"].tolist() == [[1, 1, 1]] * 2


def quadrants(height: int, width: int) -> View:
    """An image whose four quarters have the labels 0 to 3 and colours to match."""
    label = np.zeros((height, width), np.uint8)
    label[:, width // 2 :] += 1
    label[height // 2 :] += 2
    return View(np.repeat(label[..., None] * 60, 3, axis=2), (label,))


def test_flipping_turns_labels_with_the_image() -> None:
    view = quadrants(10, 20).flipped()
    np.testing.assert_array_equal(view.image[..., 0] // 60, view.labels[0])
    assert view.labels[0][0, 0] == 1


@pytest.mark.parametrize("seed", range(8))
def test_crops_keep_labels_on_their_pixels(seed: int) -> None:
    view = quadrants(60, 80)
    label = view.labels[0]
    where = np.stack([label, np.arange(label.size).reshape(label.shape) % 251], axis=0).astype(np.uint8)
    crop = random_crop(View(view.image, tuple(where)), np.random.default_rng(seed), 0.4)
    shades = [crop.image[crop.labels[0] == value].mean() for value in np.unique(crop.labels[0])]
    assert shades == sorted(shades)
    assert crop.labels[1].shape == crop.image.shape[:2]
    assert min(crop.image.shape[:2]) >= 24


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 10_000))
def test_views_keep_labels_on_their_pixels(height: int, width: int, seed: int) -> None:
    label = np.zeros((height, width), np.uint16)
    label[:, width // 2 :] = 300
    image = np.where(label[..., None] > 0, 250, 5).astype(np.uint8).repeat(3, axis=2)
    view, labels = random_view(image, label, (24, 32), np.random.default_rng(seed))
    assert view.shape == (24, 32, 3) and view.dtype == np.uint8
    assert labels.shape == (24, 32) and labels.dtype == np.uint16
    assert set(np.unique(labels)) <= {0, 300, IGNORE}
    light, dark = view[labels == 300], view[labels == 0]
    if light.size and dark.size:
        assert light.mean() > dark.mean()
    # Padding is at the bottom and at the right.
    known = labels != IGNORE
    assert known[0, 0] and known.sum() == known.any(1).sum() * known.any(0).sum()


def test_views_have_the_labels_border_where_the_image_has_its_border() -> None:
    label = np.zeros((97, 130), np.uint16)
    label[41:] = 1
    image = np.where(label[..., None] > 0, 190, 60).astype(np.uint8).repeat(3, axis=2)
    apart = []
    for seed in range(100):
        view, labels = random_view(image, label, (48, 64), np.random.default_rng(seed))
        rows = labels[:, 0] != IGNORE
        shade, names = view[rows, 0].mean(axis=1), labels[rows, 0]
        if len(np.unique(names)) == 2 and shade.min() > 5 and shade.max() < 250:  # Not cut off by 0 or 255.
            border = ((shade.max() - shade) / np.ptp(shade)).sum()  # In rows, and parts of one.
            apart.append((names == 0).sum() - border)
    assert len(apart) > 50 and abs(np.mean(apart)) < 0.1
