"""Cutting grids into windows and joining them again."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from ovs_ros.zoo.coarse_to_fine.window_partition import WindowBias, cut, join  # noqa: E402


@settings(deadline=None)
@given(
    h=st.integers(1, 9),
    w=st.integers(1, 9),
    window=st.integers(1, 5),
    share=st.floats(0, 1, exclude_max=True),
)
def test_what_is_cut_joins_again(h: int, w: int, window: int, share: float) -> None:
    offset = int(share * window)
    x = torch.arange(2.0 * h * w * 3).reshape(2, h, w, 3)
    pieces = cut(x, window, offset)
    assert pieces.shape[2:] == (window**2, 3)
    torch.testing.assert_close(join(pieces, h, w, window, offset), x)


def test_windows_are_squares_of_neighbours() -> None:
    x = torch.arange(16.0).reshape(1, 4, 4, 1)
    assert cut(x, 2, 0)[0, 1, :, 0].tolist() == [2, 3, 6, 7]
    assert cut(x, 2, 1)[0, 4, :, 0].tolist() == [5, 6, 9, 10]


def test_the_bias_hides_padding_and_knows_offsets() -> None:
    bias = WindowBias(window=2, offset=1, heads=1)
    with torch.no_grad():
        bias.table.copy_(torch.arange(9.0)[:, None])
    scores = bias(torch.zeros(1, 2, 2, 5))  # four windows, each with one patch of the grid
    assert scores.shape == (4, 1, 4, 4)
    seen = scores[:, 0] > -1e6
    assert [row.any(0).nonzero().flatten().tolist() for row in seen] == [[3], [2], [1], [0]]
    # A patch and its neighbour one row down and one column right: row and column offset -1.
    assert scores[0, 0, 0, 3] == 0 and scores[3, 0, 3, 0] == 8 and scores[3, 0, 0, 0] == 4
