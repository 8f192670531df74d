import cv2
import numpy as np
import pytest

from ovs_ros.geometry.flow import DownscaledFrame, OpticalFlow


def texture(height, width, seed=0):
    """A picture with details of some pixels' size, larger than asked for by 40 pixels each way."""
    noise = np.random.default_rng(seed).uniform(0, 255, (height + 40, width + 40, 3)).astype(np.float32)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


@pytest.mark.parametrize("size", [(240, 320), (480, 640), (100, 150)])
def test_a_picture_that_moves_is_followed(size):
    height, width = size
    world = cv2.resize(texture(120, 160), (width + 40, height + 40))
    before = DownscaledFrame.of(world[10 : height + 10, 10 : width + 10])
    now = DownscaledFrame.of(world[13 : height + 13, 16 : width + 16])
    warp = OpticalFlow()(now, before)
    rows, columns = np.mgrid[:height, :width]
    inner = (slice(30, -30), slice(30, -30))
    assert np.median(np.abs(warp.x - columns - 6)[inner]) < 0.3
    assert np.median(np.abs(warp.y - rows - 3)[inner]) < 0.3


def test_a_cut_is_noticed():
    first, second = (
        DownscaledFrame.of(cv2.equalizeHist(texture(240, 320, seed)[..., 0])[..., None].repeat(3, 2))
        for seed in (0, 1)
    )
    flow = OpticalFlow()
    assert flow(second, first) is None
    assert flow(first, first) is not None


def test_what_was_not_there_before_has_no_earlier_pixel():
    world = texture(240, 320)
    changed = world.copy()
    changed[100:160, 100:180] = (np.indices((60, 80)).sum(axis=0)[..., None] // 4 % 2 * 255).astype(np.uint8)
    warp = OpticalFlow()(DownscaledFrame.of(changed), DownscaledFrame.of(world))
    lost = warp.x < -1e3
    assert lost[105:155, 105:175].mean() > 0.5
    assert lost[180:, 200:].mean() < 0.05


@pytest.mark.parametrize("size", [(1, 1), (8, 200), (32, 96)])
def test_small_pictures_do_no_harm(size):
    frame = DownscaledFrame.of(np.full((*size, 3), 90, np.uint8))
    warp = OpticalFlow()(frame, frame)
    assert warp.x.shape == warp.y.shape == size
    assert (warp.take(np.ones(size, np.uint8), 0) == 1).all()
