"""Shrinking on a device gives OpenCV's pixels."""

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[clip]')")

from ovs_ros.runtime.torch_resize import Shrink  # noqa: E402


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((120, 160), (111, 148)),
        ((120, 160), (60, 80)),
        ((217, 160), (48, 31)),
        ((120, 160), (119, 160)),
        ((7, 3), (1, 1)),
    ],
)
def test_pixels_are_opencvs(source: tuple[int, int], target: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*source, 3), np.uint8)
    expected = cv2.resize(image, target[::-1], interpolation=cv2.INTER_AREA).astype(int)
    shrunk = Shrink(source, target, torch.device("cpu"))(torch.from_numpy(image))
    assert shrunk.dtype == torch.uint8 and shrunk.shape == (*target, 3)
    differences = np.abs(shrunk.numpy() - expected)
    assert differences.max() <= 1
    assert (differences > 0).mean() < 0.001
