"""Layers that several parts share."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")

from ovs_ros.zoo.coarse_to_fine.layers import float32_cosines, linear_attention  # noqa: E402


def test_linear_attention_is_the_mean_of_values_weighed_by_the_feature_maps() -> None:
    query, key, value = torch.randn(2, 4, 3), torch.randn(2, 5, 3), torch.randn(2, 5, 6)
    there = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0])[:, None]
    weights = (torch.nn.functional.elu(query) + 1) @ (torch.nn.functional.elu(key) + 1).transpose(1, 2)
    weights = weights * there.T
    expected = weights / weights.sum(-1, keepdim=True) @ value
    torch.testing.assert_close(linear_attention(query, key, value, there), expected, atol=1e-5, rtol=1e-4)


def test_cosines_stay_exact_under_autocast() -> None:
    patches, words = (
        torch.nn.functional.normalize(torch.randn(1, *shape, 64), dim=-1) for shape in ((3, 4), (5,))
    )
    with torch.autocast("cpu", torch.bfloat16):
        cosines = float32_cosines(patches, words)
    torch.testing.assert_close(cosines, torch.einsum("byxd,bkd->bkyx", patches, words))
