import cv2
import numpy as np
import pytest

from ovs_ros.geometry.points import Intrinsics
from ovs_ros.geometry.reprojection import Sight, reproject

CAMERA = Intrinsics(80.0, 90.0, 31.5, 23.5, 64, 48)
ROWS, COLUMNS = np.mgrid[:48, :64].astype(np.float32)


def pose(turn=(0, 0, 0), move=(0, 0, 0)):
    matrix = np.eye(4)
    matrix[:3, :3] = cv2.Rodrigues(np.array(turn, np.float64))[0]
    matrix[:3, 3] = move
    return matrix


def sight(depth=2.0, where=None):
    return Sight(CAMERA, np.full((48, 64), depth, np.float32), pose() if where is None else where)


def test_a_camera_at_rest_sees_every_pixel_where_it_was():
    warp = reproject(sight(), sight())
    np.testing.assert_allclose(warp.x, COLUMNS, atol=1e-3)
    np.testing.assert_allclose(warp.y, ROWS, atol=1e-3)


def test_a_wall_moves_by_focal_length_times_step_over_distance():
    warp = reproject(sight(where=pose(move=(0.1, -0.2, 0))), sight())
    seen = (warp.x > -1e3) & (warp.y > -1e3)
    np.testing.assert_allclose(warp.x[seen], COLUMNS[seen] + 80 * 0.1 / 2, atol=1e-3)
    np.testing.assert_allclose(warp.y[seen], ROWS[seen] - 90 * 0.2 / 2, atol=1e-3)


def test_points_in_space_lie_where_the_other_camera_projects_them():
    rng = np.random.default_rng(0)
    depth = rng.uniform(1, 4, (48, 64)).astype(np.float32)
    now = Sight(CAMERA, depth, pose((0.02, -0.05, 0.1), (0.1, 0.2, -0.1)))
    before = Sight(CAMERA, depth, pose((-0.03, 0.01, 0.0), (0.0, 0.1, 0.2)))
    rays = np.stack(((COLUMNS - 31.5) / 80, (ROWS - 23.5) / 90, np.ones_like(ROWS)), axis=-1)
    points = np.concatenate((rays * depth[..., None], np.ones((48, 64, 1))), axis=-1)  # (H, W, 4)
    there = points @ (np.linalg.inv(before.camera_to_world) @ now.camera_to_world).T
    warp = reproject(now, before, tolerance=np.inf)
    np.testing.assert_allclose(warp.x, there[..., 0] / there[..., 2] * 80 + 31.5, atol=2e-2)
    np.testing.assert_allclose(warp.y, there[..., 1] / there[..., 2] * 90 + 23.5, atol=2e-2)


def test_what_something_stood_before_has_no_earlier_pixel():
    before = np.full((48, 64), 3.0, np.float32)
    before[10:30, 20:40] = 1.0
    warp = reproject(sight(3.0), Sight(CAMERA, before, pose()))
    hidden = np.zeros((48, 64), bool)
    hidden[10:30, 20:40] = True
    assert ((warp.x < -1) == hidden).all()


@pytest.mark.parametrize(("now", "seen"), [(2.0, True), (2.08, True), (2.2, False), (1.8, False)])
def test_depths_of_one_point_may_differ_by_the_tolerance(now, seen):
    warp = reproject(sight(now), sight(2.0), tolerance=0.05)
    assert ((warp.x > -1) == seen).all()


def test_what_lies_behind_the_earlier_camera_is_not_found_in_its_image():
    # Without depth there, nothing but the direction tells.
    turned = reproject(sight(where=pose((0, np.pi, 0))), sight(np.nan))
    values = turned.take(np.ones((48, 64), np.uint8), 0)
    assert values.mean() < 0.05  # A few pixels fall on the horizon between before and behind.


def test_holes_move_with_what_is_around_them_if_asked_for():
    depth = np.full((48, 64), 2.0, np.float32)
    depth[20:24, 30:34] = np.nan
    depth[40:42, 10:12] = 0
    step = pose(move=(0.1, 0, 0))  # Four pixels.
    warp = reproject(Sight(CAMERA, depth, step), Sight(CAMERA, depth, pose()))
    np.testing.assert_allclose(warp.x[21, 31], 35, atol=0.2)
    assert (warp.x[:, :59] > 0).all()
    strict = reproject(Sight(CAMERA, depth, step), Sight(CAMERA, depth, pose()), holes=False)
    unknown_now, unknown_before = np.isin(depth, 2.0, invert=True), np.zeros((48, 64), bool)
    unknown_before[20:24, 26:30] = unknown_before[40:42, 6:8] = True
    assert ((strict.x < -1e3) == (unknown_now | unknown_before))[:, :59].all()


def test_what_either_sight_did_not_measure_is_trusted_if_asked_for():
    depth = np.full((48, 64), 2.0, np.float32)
    depth[20:24, 30:34] = np.nan
    near = np.full((48, 64), 2.0, np.float32)
    near[18:26, 28:36] = 1.0
    hole, measured = Sight(CAMERA, depth, pose()), Sight(CAMERA, near, pose())
    trusted = reproject(hole, measured).x > -1
    assert trusted[20:24, 30:34].all() and not trusted[19, 29]
    assert (reproject(measured, hole).x > -1)[20:24, 30:34].all()


def test_values_of_nearest_pixels_are_taken_and_the_rest_is_outside():
    numbers = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64)
    taken = reproject(sight(where=pose(move=(0.1, 0, 0))), sight()).take(numbers, 65535)
    assert taken.dtype == np.uint16
    assert (taken[:, :60] == numbers[:, 4:]).all() and (taken[:, 60:] == 65535).all()


def test_depth_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"expected depth of shape \(48, 64\).*got \(4, 4\)"):
        Sight(CAMERA, np.ones((4, 4), np.float32), pose())


@pytest.mark.parametrize(
    "matrix",
    [np.eye(3), np.full((4, 4), np.nan), 2 * np.eye(4), np.diag([1.0, 1, -1, 1]), np.zeros((4, 4))],
)
def test_a_pose_that_is_no_rigid_motion_is_refused(matrix):
    with pytest.raises(ValueError, match="expected a pose as a"):
        sight(where=matrix)
