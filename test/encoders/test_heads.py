"""Cosines of pixel positions against a slow reference of the formula."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ovs_ros.encoders.heads import ConvexHead, CosineHead


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.integers(0, 99))
def test_convex_head_is_the_weighted_neighbourhood_plus_details(h: int, w: int, s: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    dim, narrow, m = 6, 2, 3
    patches = rng.standard_normal((h, w, dim)).astype(np.float32)
    weights = rng.dirichlet(np.ones(9), (h * w, s * s)).astype(np.float32)
    details = rng.standard_normal((h * w, s * s, narrow)).astype(np.float32)
    detail_words = rng.standard_normal((dim, narrow)).astype(np.float32)
    words = rng.standard_normal((m, dim)).astype(np.float32)
    head = ConvexHead(patches, weights, details, detail_words, 1.0)
    got = head.logits(words)
    assert head.grid == (h * s, w * s) == got.shape[:2]
    for y in range(h * s):
        for x in range(w * s):
            row, column, cell = y // s, x // s, (y // s) * w + x // s
            place = (y % s) * s + x % s
            want = details[cell, place] @ (words @ detail_words).T
            for k in range(9):
                near = patches[np.clip(row + k // 3 - 1, 0, h - 1), np.clip(column + k % 3 - 1, 0, w - 1)]
                want = want + weights[cell, place, k] * (words @ near)
            np.testing.assert_allclose(got[y, x], want, atol=1e-4)


def test_dense_pixels_are_plain_dot_products() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.standard_normal((3, 4, 5)).astype(np.float32)
    words = rng.standard_normal((2, 5)).astype(np.float32)
    np.testing.assert_allclose(
        CosineHead(pixels, 1.0).logits(words), np.einsum("hwd,md->hwm", pixels, words), atol=1e-5
    )
