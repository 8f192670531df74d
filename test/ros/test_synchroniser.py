import pytest
from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from ovs_ros.ros.synchroniser import CompanionSync

MS = 1_000_000


def header(ms):
    return Header(stamp=Time(sec=ms // 1000, nanosec=ms % 1000 * MS))


@pytest.fixture
def pairs():
    return []


@pytest.fixture
def sync(pairs):
    return CompanionSync(
        0.02, lambda stamp, depth: pairs.append((stamp // MS, depth.header.stamp.nanosec // MS))
    )


def test_depth_comes_to_the_image_of_its_stamp_in_whatever_order(sync, pairs):
    sync.image(header(100))
    sync.companion(Image(header=header(100)))
    sync.companion(Image(header=header(200)))
    sync.image(header(200))
    assert pairs == [(100, 100), (200, 200)]


def test_stamps_may_differ_by_less_than_the_slop(sync, pairs):
    sync.image(header(100))
    sync.companion(Image(header=header(115)))
    sync.image(header(200))
    sync.companion(Image(header=header(225)))
    assert pairs == [(100, 115)]


def test_the_nearest_depth_is_taken(sync, pairs):
    sync.companion(Image(header=header(90)))
    sync.companion(Image(header=header(102)))
    sync.image(header(100))
    assert pairs == [(100, 102)]


def test_images_without_depth_do_no_harm(sync, pairs):
    for ms in range(0, 900, 30):
        sync.image(header(ms))
    sync.image(header(900))
    sync.companion(Image(header=header(900)))
    assert pairs == [(900, 900)]


def test_after_a_reset_older_stamps_find_each_other(sync, pairs):
    for ms in range(500, 900, 30):
        sync.image(header(ms))
        sync.companion(Image(header=header(ms + 25)))
    sync.reset()
    sync.image(header(100))
    sync.companion(Image(header=header(100)))
    assert pairs[-1] == (100, 100)


def test_a_stamp_before_1970_has_no_companion_and_ends_nothing(sync, pairs):
    before = Header(stamp=Time(sec=-1))
    sync.image(before)
    sync.companion(Image(header=before))
    sync.image(header(100))
    sync.companion(Image(header=header(100)))
    assert pairs == [(100, 100)]
