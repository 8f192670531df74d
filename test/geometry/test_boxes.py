"""Boxes around regions of a depth image."""

import numpy as np

from ovs_ros.geometry.boxes import LEAST_POINTS, region_boxes
from ovs_ros.geometry.points import Intrinsics

CAMERA = Intrinsics(100.0, 50.0, 40.0, 30.0, 80, 60)


def test_a_plate_facing_the_camera_has_its_place_and_size() -> None:
    regions = np.zeros((60, 80), np.int32)
    regions[10:40, 20:61] = 2
    metres = np.full((60, 80), 2.0, np.float32)
    (nothing, (middle, size)) = region_boxes(regions, 2, metres, CAMERA)
    assert np.isnan(nothing).all()
    assert np.allclose(middle, [0.0, -0.22, 2.0], atol=0.03)
    assert np.allclose(size, [0.9 * 0.8, 0.9 * 1.16, 0.0], atol=0.05)


def test_a_few_points_of_what_is_behind_do_not_stretch_it() -> None:
    regions = np.ones((60, 80), np.int32)
    metres = np.full((60, 80), 2.0, np.float32)
    metres[:, :2] = 50.0
    metres[:2] = np.nan
    ((middle, size),) = region_boxes(regions, 1, metres, CAMERA)
    assert middle[2] == 2.0 and size[2] == 0.0 and size[0] < 2.0


def test_without_enough_depth_there_is_no_box() -> None:
    regions = np.ones((60, 80), np.int32)
    metres = np.full((60, 80), np.nan, np.float32)
    assert np.isnan(region_boxes(regions, 1, metres, CAMERA)).all()
    metres[30, : LEAST_POINTS - 1] = 1.0
    assert np.isnan(region_boxes(regions, 1, metres, CAMERA)).all()
    metres[30, LEAST_POINTS] = 1.0
    assert np.isfinite(region_boxes(regions, 1, metres, CAMERA)).all()
    assert region_boxes(np.zeros((60, 80), np.int32), 0, metres, CAMERA).shape == (0, 2, 3)
