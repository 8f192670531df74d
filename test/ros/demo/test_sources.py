from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

from ovs_ros.ros.demo.sources import (
    MOTORCYCLE_PERIOD,
    crop_intrinsics,
    motorcycle_depth,
    motorcycle_view,
    open_source,
)


def write_image(path: Path, value: int, size: tuple[int, int] = (6, 8)) -> None:
    cv2.imwrite(str(path), np.full((*size, 3), value, np.uint8))


def test_disparity_becomes_depth_by_the_published_calibration():
    # Z = 0.193001 * 994.978 / (d + 31.086), worked out by hand for d = 10 and 50.
    depth = motorcycle_depth(np.array([[10, 50, np.inf, np.nan]], np.float32))
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth[0, :2], [4.6739, 2.3683], atol=2e-4)
    assert np.isnan(depth[0, 2:]).all()


def test_a_pixel_keeps_its_ray_under_crop_and_zoom():
    intrinsics = np.array([[900.0, 0, 310], [0, 905, 250], [0, 0, 1]])
    x, y, scale = 40, 30, 1.6
    cropped = crop_intrinsics(intrinsics, x, y, scale)
    u, v = 123.0, 77.0
    new_u, new_v = (u - x + 0.5) * scale - 0.5, (v - y + 0.5) * scale - 0.5
    assert (new_u - cropped[0, 2]) / cropped[0, 0] == pytest.approx((u - 310) / 900)
    assert (new_v - cropped[1, 2]) / cropped[1, 1] == pytest.approx((v - 250) / 905)


def test_motorcycle_moves_and_comes_back():
    views = list(islice(open_source("motorcycle"), MOTORCYCLE_PERIOD + 1))
    for view in views[:: MOTORCYCLE_PERIOD // 10]:
        assert view.image.shape == (480, 640, 3) and view.image.dtype == np.uint8
        assert view.depth is not None and view.depth.shape == (480, 640) and view.depth.dtype == np.float32
        known = np.isfinite(view.depth)
        assert known.mean() > 0.8
        assert view.depth[known].min() > 1.9 and view.depth[known].max() < 6
    assert np.array_equal(views[0].image, views[-1].image)
    assert not np.array_equal(views[0].image, views[MOTORCYCLE_PERIOD // 3].image)


def test_depth_lies_on_the_image():
    columns = np.broadcast_to(np.linspace(0, 250, 2964, dtype=np.float32), (1988, 2964))
    image = columns.astype(np.uint8)[..., None].repeat(3, axis=2)
    view = motorcycle_view(image, columns, np.eye(3), 0)
    assert view.depth is not None
    slope = float(np.diff(view.depth[0]).mean())  # grey levels a pixel
    apart = view.image[..., 0] + 0.5 - view.depth  # the image's are cut off to whole ones
    assert abs(apart.mean()) < 0.1 * slope


def test_rgbd_folder(tmp_path):
    for index in range(2):
        write_image(tmp_path / f"{index:04}.color.jpg", 50 + index)
        cv2.imwrite(str(tmp_path / f"{index:04}.depth.png"), np.full((6, 8), 1000 + index, np.uint16))
    (tmp_path / "intrinsics.txt").write_text("585 0 320\n0 585 240\n0 0 1\n")
    first, second, again = islice(open_source(str(tmp_path)), 3)
    assert first.depth is not None and first.depth.dtype == np.uint16 and (first.depth == 1000).all()
    assert second.depth is not None and (second.depth == 1001).all()
    assert np.array_equal(first.image, again.image)
    assert first.intrinsics is not None and first.intrinsics.tolist() == [
        [585, 0, 320],
        [0, 585, 240],
        [0, 0, 1],
    ]


def test_folder_of_images_in_order_without_depth(tmp_path):
    for index, name in enumerate(["b.png", "a.png", "notes.txt"]):
        if name.endswith(".png"):
            write_image(tmp_path / name, index)
        else:
            (tmp_path / name).write_text("not an image")
    views = list(islice(open_source(str(tmp_path)), 3))
    assert [int(view.image[0, 0, 0]) for view in views] == [1, 0, 1]
    assert views[0].depth is None and views[0].intrinsics is None


def test_video_plays_again_from_its_start(tmp_path):
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for value in (0, 200):
        writer.write(np.full((48, 64, 3), value, np.uint8))
    writer.release()
    means = [view.image.mean() for view in islice(open_source(str(path)), 5)]
    assert [mean > 100 for mean in means] == [False, True, False, True, False]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "missing", "no such file or folder"),
        (lambda folder: folder, "expected images in"),
        (lambda folder: (folder / "intrinsics.txt").write_text("1 2 3") and folder, "nine numbers"),
        (
            lambda folder: (folder / "intrinsics.txt").write_text("1 0 0 0 1 0 0 0 1") and folder,
            "no NNNN.color",
        ),
        (
            lambda folder: (folder / "x.mp4").write_text("no film") and folder / "x.mp4",
            "cannot be read as a video",
        ),
    ],
)
def test_unusable_sources_are_refused_at_once(tmp_path, make, message):
    with pytest.raises(ValueError, match=message):
        open_source(str(make(tmp_path)))


def test_a_broken_depth_image_is_named(tmp_path):
    write_image(tmp_path / "0.color.jpg", 1)
    write_image(tmp_path / "0.depth.png", 1)
    (tmp_path / "intrinsics.txt").write_text("1 0 0 0 1 0 0 0 1")
    with pytest.raises(ValueError, match="one channel of 16 bits"):
        next(open_source(str(tmp_path)))
