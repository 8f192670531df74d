"""Windows cover the grid, and their mean is that of a slow loop."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[clip]')")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from ovs_ros.encoders.clip.sliding_windows import crops, lay_windows, merge  # noqa: E402

SIDES = st.integers(1, 8)


@given(rows=SIDES, columns=SIDES, window=st.integers(1, 14), data=st.data())
def test_windows_cover_the_grid_and_none_reaches_beyond(
    rows: int, columns: int, window: int, data: st.DataObject
) -> None:
    windows = lay_windows(rows, columns, window, data.draw(st.integers(1, window)))
    seen = torch.zeros(rows, columns)
    for top, left in windows.corners:
        assert 0 <= top <= rows - windows.height and 0 <= left <= columns - windows.width
        seen[top : top + windows.height, left : left + windows.width] += 1
    assert seen.min() >= 1
    assert (windows.height, windows.width) == (min(window, rows), min(window, columns))
    assert len(set(windows.corners)) == len(windows.corners)


@settings(max_examples=20)
@given(rows=SIDES, columns=SIDES, window=st.integers(1, 8), scale=st.integers(1, 3), data=st.data())
def test_merged_is_the_mean_over_the_windows_that_cover_a_place(
    rows: int, columns: int, window: int, scale: int, data: st.DataObject
) -> None:
    windows = lay_windows(rows, columns, window, data.draw(st.integers(1, window)))
    torch.manual_seed(rows * 100 + columns)
    grids = torch.randn(len(windows.corners), windows.height * scale, windows.width * scale, 2)
    merged = merge(grids, windows, scale)
    expected = torch.empty(rows * scale, columns * scale, 2)
    for row in range(rows * scale):
        for column in range(columns * scale):
            given_here = [
                grid[row - top * scale, column - left * scale]
                for grid, (top, left) in zip(grids, windows.corners, strict=True)
                if 0 <= row - top * scale < windows.height * scale
                and 0 <= column - left * scale < windows.width * scale
            ]
            expected[row, column] = sum(given_here) / len(given_here)
    torch.testing.assert_close(merged, expected)


def test_crops_are_the_windows_pixels() -> None:
    images = torch.arange(48.0 * 64).reshape(1, 1, 48, 64)
    windows = lay_windows(3, 4, 2, 2)
    cut = crops(images, windows, 16)
    assert windows.corners == ((0, 0), (0, 2), (1, 0), (1, 2))
    assert torch.equal(cut[3, 0], images[0, 0, 16:48, 32:64])


def test_no_window_is_the_whole_grid() -> None:
    windows = lay_windows(3, 4, 0, 0)
    assert windows.corners == ((0, 0),) and (windows.height, windows.width) == (3, 4)


def test_a_stride_beyond_the_window_is_refused() -> None:
    with pytest.raises(ValueError, match="stride from 1 to the window of 2 patches, got 3"):
        lay_windows(4, 4, 2, 3)
