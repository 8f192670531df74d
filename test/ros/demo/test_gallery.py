import json

import cv2
import numpy as np
import pytest
from PIL import Image

from ovs_ros.ros.demo.gallery import Gallery, Shot

CLOUD = np.dtype(
    [
        ("x", "<f4"),
        ("y", "<f4"),
        ("z", "<f4"),
        ("rgb", "<f4"),
        ("label", "<u2"),
        ("confidence", "u1"),
        ("pad", "u1"),
    ]
)


@pytest.fixture
def saved(tmp_path):
    def shot(version, label):
        labels = np.full((48, 64), label, np.uint8)
        overlay = np.full((48, 64, 3), 40 * version + 100 * (label == 1), np.uint8)
        return Shot(labels, overlay, ("floor", "wall"), np.array([0.7, 0.2], np.float32), 0.1, version)

    cloud = np.zeros((48, 64), CLOUD)
    cloud["z"], cloud["label"], cloud["confidence"] = 2.5, 1, 9
    cloud["rgb"] = np.array(0x00FF8040, np.uint32).view(np.float32)
    cloud["x"][0] = np.nan
    (tmp_path / "overlay_999.jpg").write_bytes(b"of an earlier run")
    gallery = Gallery(tmp_path, {0: "floor", 1: "wall"})
    return tmp_path, gallery.save([shot(1, 0), shot(1, 1), shot(2, 255)], {2: cloud})


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


def test_label_image_is_the_last_of_its_version(saved):
    folder, _ = saved
    assert (cv2.imread(str(folder / "labels_v1.png"), cv2.IMREAD_UNCHANGED) == 1).all()
    assert (cv2.imread(str(folder / "labels_v2.png"), cv2.IMREAD_UNCHANGED) == 255).all()
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
