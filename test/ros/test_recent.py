"""The frames that one can still point into."""

import numpy as np
import pytest

from ovs_ros.ros import recent
from ovs_ros.ros.recent import RecentFrames


def made(value: int) -> np.ndarray:
    return np.full((9, 10, 3), value, np.uint8)


def test_finds_the_frame_of_a_stamp_or_the_one_before() -> None:
    frames = RecentFrames()
    for stamp in (100, 200, 300):
        frames.put("", stamp, made(stamp % 251))
    for stamp, expected in ((200, 200), (299, 200), (300, 300), (9999, 300), (0, 300)):
        assert frames.find(stamp).image[0, 0, 0] == expected % 251


def test_says_what_is_not_there() -> None:
    frames = RecentFrames()
    with pytest.raises(LookupError, match="none yet"):
        frames.find(0)
    frames.put("", 2_000_000_000, made(1))
    with pytest.raises(LookupError, match=r"from 2\.000 s on, got 1\.000 s"):
        frames.find(1_000_000_000)


def test_old_frames_make_room_and_the_newest_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "MOST_BYTES", 600)
    frames = RecentFrames()
    for stamp in range(1, 6):
        frames.put("", stamp, made(stamp))
    assert frames.find(4).image[0, 0, 0] == 4
    with pytest.raises(LookupError):
        frames.find(3)
    frames.put("", 6, np.full((100, 100, 3), 6, np.uint8))
    assert frames.find(0).image[0, 0, 0] == 6


def test_each_camera_has_its_frames_and_its_newest_one_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "MOST_BYTES", 600)
    frames = RecentFrames()
    frames.put("slow", 1, made(1))
    for stamp in range(2, 9):
        frames.put("fast", stamp, made(stamp))
    assert frames.find(0, "slow").image[0, 0, 0] == 1
    assert frames.find(0, "fast").image[0, 0, 0] == frames.find(0).image[0, 0, 0] == 8
    with pytest.raises(LookupError, match="one of fast, slow, got 'rear'"):
        frames.find(0, "rear")


def test_an_image_is_kept_nearly_as_it_was() -> None:
    columns, rows = np.meshgrid(np.arange(64), np.arange(48))
    image = np.stack((2 * columns + 40, 2 * rows + 60, columns + rows), axis=2).astype(np.uint8)
    for shape in ((48, 64), (47, 64), (48, 63)):
        given = image[: shape[0], : shape[1]]
        frames = RecentFrames()
        frames.put("", 1, given, 90)
        found = frames.find(0)
        assert found.rotation == 90 and found.image.shape == given.shape
        assert np.abs(found.image.astype(int) - given).max() <= 4
