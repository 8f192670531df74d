import json

import cv2
import numpy as np
import pytest
from PIL import Image

from ovs_ros.geometry.points import POINT
from ovs_ros.ros.demo.gallery import save, with_legend


@pytest.fixture
def saved(tmp_path):
    pictures = [
        with_legend(np.full((48, 64, 3), grey, np.uint8), ["floor", "wall"], {"floor": 0.7, "wall": 0.2}, 0.1)
        for grey in (40, 140, 80)
    ]
    cloud = np.zeros((48, 64), POINT)
    cloud["z"], cloud["label"], cloud["confidence"], cloud["rgb"] = 2.5, 1, 9, 0x00FF8040
    cloud["x"][0] = np.nan
    (tmp_path / "overlay_999.jpg").write_bytes(b"of an earlier run")
    labels = {1: np.ones((48, 64), np.uint8), 2: np.full((48, 64), 65535, np.uint16)}
    return tmp_path, save(tmp_path, {1: "wall", 0: "floor"}, pictures, labels, {2: cloud})


def test_what_is_there(saved):
    folder, paths = saved
    assert [path.name for path in paths] == [
        *(
            "overlay_*.jpg",
            "stream.webp",
            "labels_v1.png",
            "labels_v2.png",
            "label_names.json",
            "points_v2.ply",
        )
    ]
    assert sorted(path.name for path in folder.glob("overlay_*")) == [f"overlay_00{i}.jpg" for i in range(3)]


def test_label_images_and_names(saved):
    folder, _ = saved
    assert (cv2.imread(str(folder / "labels_v1.png"), cv2.IMREAD_UNCHANGED) == 1).all()
    assert (cv2.imread(str(folder / "labels_v2.png"), cv2.IMREAD_UNCHANGED) == 65535).all()
    assert json.loads((folder / "label_names.json").read_text()) == {"0": "floor", "1": "wall"}


def test_pictures_have_a_legend_beside_them(saved):
    folder, _ = saved
    picture = cv2.imread(str(folder / "overlay_000.jpg"))
    assert picture.shape[0] == 48 and picture.shape[1] > 64
    assert picture[:, 64:].std() > 5  # Something is written there.
    with Image.open(folder / "stream.webp") as animation:
        assert animation.n_frames == 3


def test_points_take_half_of_the_label_colour(saved):
    from ovs_ros.vocabulary.category import Category

    folder, _ = saved
    header, _, body = (folder / "points_v2.ply").read_bytes().partition(b"end_header\n")
    assert b"element vertex 3008\n" in header  # 47 rows of 64
    wall = Category("wall", id=1).color
    expected = [camera // 2 + label // 2 for camera, label in zip((0xFF, 0x80, 0x40), wall, strict=True)]
    assert list(body[12:15]) == expected
