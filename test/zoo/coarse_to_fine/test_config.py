"""Which configurations there are, and which there cannot be."""

import pytest

pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")

from ovs_ros.zoo.coarse_to_fine.config import NetworkConfig  # noqa: E402


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"category_attention": "all"},
            "expected category_attention to be one of none, full, linear, got 'all'",
        ),
        ({"spatial": "shared"}, "expected shallow or attention for spatial='shared', got neither"),
        ({"heads": 3}, "expected dim to be a multiple of heads 3, got 64"),
        ({"local_kernels": 4}, "expected local_kernels to be odd or 0, got 4"),
        (
            {"width": 64, "heads": 64},
            "expected the width of layer 2 of the decoder to be a multiple of heads 64, got 32",
        ),
        ({"levels": -1}, "expected levels to be a whole number of at least 0, got -1"),
        ({"prompts": 0}, "expected prompts to be a whole number of at least 1, got 0"),
    ],
)
def test_impossible_configurations_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NetworkConfig.full(64, **fields)


def test_full_has_the_papers_widths() -> None:
    full = NetworkConfig.full(512)
    assert (full.width, full.window, full.levels) == (128, 12, 2)
