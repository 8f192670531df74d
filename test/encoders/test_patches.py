"""Images of every shape land in the grid without distortion."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_ros.encoders.patches import IMAGENET_MEAN_RGB, fit_grid, place

SIDES = st.integers(1, 3000)


@given(SIDES, SIDES, st.integers(1, 2000))
def test_grid_keeps_to_its_budget_and_holds_the_image(height: int, width: int, patches: int) -> None:
    grid = fit_grid(height, width, patches=patches, patch=14)
    assert grid.rows * grid.columns <= patches
    assert 0 <= grid.rows * 14 - grid.height < 14
    assert 0 <= grid.columns * 14 - grid.width < 14
    assert all(0 < share <= 1 for share in grid.valid)


@given(st.integers(200, 2000), st.integers(200, 2000))
def test_aspect_ratio_is_kept_to_a_pixel(height: int, width: int) -> None:
    grid = fit_grid(height, width, patches=588, patch=14)
    if max(height, width) <= 8 * min(height, width):
        scale = max(grid.height, grid.width) / max(height, width)
        assert abs(grid.height - height * scale) <= 1
        assert abs(grid.width - width * scale) <= 1


def test_vga_fills_a_grid_of_its_shape() -> None:
    grid = fit_grid(480, 640, patches=588, patch=14)
    assert (grid.rows, grid.columns, grid.valid) == (21, 28, (1.0, 1.0))


def test_placed_image_is_the_resized_one_and_padding_is_mean_colour() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (456, 616, 3), np.uint8)
    grid = fit_grid(456, 616, patches=588, patch=14)
    placed = place(image, grid)
    wanted = cv2.resize(image, (grid.width, grid.height), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(placed[: grid.height, : grid.width], wanted)
    assert grid.height < placed.shape[0]
    assert (placed[grid.height :] == IMAGENET_MEAN_RGB).all()


def test_empty_image_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 x 1"):
        fit_grid(0, 10, patches=100, patch=14)
