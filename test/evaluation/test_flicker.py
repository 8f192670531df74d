import numpy as np

from ovs_ros.evaluation.flicker import Flicker
from ovs_ros.geometry.points import Intrinsics
from ovs_ros.geometry.reprojection import Sight

CAMERA = Intrinsics(10.0, 10.0, 4.5, 2.0, 10, 5)


def sight(depth=1.0, x=0.0):
    pose = np.eye(4)
    pose[0, 3] = x
    return Sight(CAMERA, np.broadcast_to(np.float32(depth), (5, 10)).copy(), pose)


def test_names_that_move_with_the_picture_do_not_flicker():
    labels = np.arange(50, dtype=np.uint16).reshape(5, 10)
    flicker = Flicker()
    flicker.add(labels, sight())
    flicker.add(np.roll(labels, -2, axis=1), sight(x=0.2))  # The last two columns come into view.
    assert (flicker.compared, flicker.changed, flicker.seen) == (40, 0, 50)
    assert flicker.rate == 0


def test_each_changed_pixel_counts():
    flicker = Flicker()
    labels = np.zeros((5, 10), np.uint8)
    for changes in (3, 0, 5):
        flicker.add(labels, sight())
        labels = labels.copy()
        labels.ravel()[:changes] += 1
    flicker.add(labels, sight())
    assert (flicker.compared, flicker.changed) == (150, 8)
    assert flicker.rate == 8 / 150


def test_what_was_hidden_or_not_measured_does_not_count():
    before, now = np.full((5, 10), 2.0), np.full((5, 10), 2.0)
    before[0] = 1.0
    before[1] = np.nan
    now[2] = np.nan
    flicker = Flicker()
    flicker.add(np.zeros((5, 10), np.uint8), sight(before))
    flicker.add(np.ones((5, 10), np.uint8), sight(now))
    assert (flicker.compared, flicker.changed) == (20, 20)


def test_one_frame_tells_nothing():
    flicker = Flicker()
    flicker.add(np.zeros((5, 10), np.uint8), sight())
    assert np.isnan(flicker.rate)
