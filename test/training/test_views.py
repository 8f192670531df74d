"""Views keep labels on their pixels."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ovs_ros.training.data import IGNORE
from ovs_ros.training.views import random_view


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
