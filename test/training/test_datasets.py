"""Every reader on a small made-up tree of its usual form, and what it says when the tree is another."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ovs_ros.training.data import IGNORE
from ovs_ros.training.datasets import SETS, lookup_table, open_dataset
from ovs_ros.training.label_spaces import shipped_label_spaces
from ovs_ros.vocabulary.set_names import set_names


def write_image(path: Path, height: int = 4, width: int = 6) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width, 3), (0, 0, 255), np.uint8))


def write_label(
    path: Path, values: list[int], kind: type = np.uint8, height: int = 4, width: int = 6
) -> None:
    """The values run through the columns, again and again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    row = np.resize(np.array(values, kind), width)
    assert cv2.imwrite(str(path), np.repeat(row[None], height, axis=0))


def coco_mmseg(root: Path) -> list[int]:
    write_image(root / "images/val2017/000000000139.jpg")
    write_label(root / "annotations/val2017/000000000139_labelTrainIds.png", [0, 11, 170, 255])
    # The raw map is left beside it, and must not be taken.
    write_label(root / "annotations/val2017/000000000139.png", [0, 12, 181, 255])
    return [0, 11, 170, IGNORE]


def coco_detectron2(root: Path) -> list[int]:
    write_image(root / "images/val2017/a.jpg")
    write_label(root / "annotations/val2017/a.png", [0, 12, 181, 255])
    write_label(root / "annotations_detectron2/val2017/a.png", [0, 11, 170, 255])
    return [0, 11, 170, IGNORE]


def coco_raw(root: Path) -> list[int]:
    write_image(root / "images/val2017/a.jpg")
    write_label(root / "annotations/val2017/a.png", [0, 12, 181, 255, 11, 90])
    return [0, 11, 170, IGNORE, IGNORE, IGNORE]


def coco_stuffthingmaps(root: Path) -> list[int]:
    write_image(root / "images/val2017/a.jpg")
    write_label(root / "stuffthingmaps/val2017/a.png", [91, 89])
    return [80, 79]


def ade_150(root: Path) -> list[int]:
    write_image(root / "images/validation/ADE_val_00000001.jpg")
    write_label(root / "annotations/validation/ADE_val_00000001.png", [0, 1, 150])
    return [IGNORE, 0, 149]


def ade_847(root: Path) -> list[int]:
    write_image(root / "images_detectron2/validation/a.jpg")
    write_label(root / "annotations_detectron2/validation/a.tif", [0, 846, 65535], np.uint16)
    (root / "classes.txt").write_text("".join(f"thing {i}\n" for i in range(847)))
    return [0, 846, IGNORE]


def context_59(root: Path) -> list[int]:
    write_image(root / "JPEGImages/2008_000002.jpg")
    write_image(root / "JPEGImages/without_labels.jpg")
    write_label(root / "annotations_detectron2/pc59_val/2008_000002.png", [0, 58, 255])
    return [0, 58, IGNORE]


def context_459(root: Path) -> list[int]:
    write_image(root / "JPEGImages/a.jpg")
    write_label(root / "annotations_detectron2/pc459_val/a.tif", [0, 458, 459, 65535], np.uint16)
    (root / "labels.txt").write_text("0: empty\n" + "".join(f"{i}: thing {i - 1}\n" for i in range(1, 460)))
    return [0, 458, IGNORE, IGNORE]


def voc_prepared(root: Path) -> list[int]:
    write_image(root / "JPEGImages/a.jpg")
    write_label(root / "annotations_detectron2/val/a.png", [0, 19, 255])
    return [0, 19, IGNORE]


def voc_augmented(root: Path) -> list[int]:
    for name in ("a", "b"):
        write_image(root / f"JPEGImages/{name}.jpg")
        write_label(root / f"SegmentationClassAug/{name}.png", [0, 1, 20, 255])
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/val.txt").write_text("a\n")
    return [IGNORE, 0, 19, IGNORE]


def voc_palette(root: Path) -> list[int]:
    write_image(root / "JPEGImages/a.jpg")
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/val.txt").write_text("a\n")
    (root / "SegmentationClass").mkdir()
    # Background, aeroplane, chair, tv monitor, border.
    file = Image.fromarray(np.repeat(np.array([[0, 1, 9, 20, 255, 0]], np.uint8), 4, axis=0))
    file.putpalette(np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8).tobytes())
    file.save(root / "SegmentationClass/a.png")
    return [IGNORE, 0, 8, 19, IGNORE, IGNORE]


def cityscapes(root: Path) -> list[int]:
    stem = "aachen_000000_000019"
    write_image(root / f"leftImg8bit/val/aachen/{stem}_leftImg8bit.png")
    write_label(root / f"gtFine/val/aachen/{stem}_gtFine_labelTrainIds.png", [0, 18, 255])
    write_label(root / f"gtFine/val/aachen/{stem}_gtFine_labelIds.png", [7, 33, 0])
    return [0, 18, IGNORE]


def own(root: Path) -> list[int]:
    write_image(root / "val/image/a.jpg")
    write_label(root / "val/label/a.png", [0, 1, 255, 7])
    (root / "classes.txt").write_text("floor\nwall\n")
    return [0, 1, IGNORE, IGNORE]


TREES: list[tuple[str, int, Callable[[Path], list[int]]]] = [
    ("coco-stuff", 171, coco_mmseg),
    ("coco-stuff", 171, coco_detectron2),
    ("coco-stuff", 171, coco_raw),
    ("coco-stuff", 171, coco_stuffthingmaps),
    ("ade20k-150", 150, ade_150),
    ("ade20k-847", 847, ade_847),
    ("pascal-context-59", 59, context_59),
    ("pascal-context-459", 459, context_459),
    ("voc-20", 20, voc_prepared),
    ("voc-20", 20, voc_augmented),
    ("voc-20", 20, voc_palette),
    ("cityscapes", 19, cityscapes),
    ("folder", 2, own),
]


@pytest.mark.parametrize(("name", "classes", "make"), TREES, ids=lambda v: getattr(v, "__name__", None))
def test_reader_gives_rgb_and_columns(
    tmp_path: Path, name: str, classes: int, make: Callable[[Path], list[int]]
) -> None:
    columns = make(tmp_path)
    dataset = open_dataset(name, tmp_path, "val")
    assert len(dataset) == 1
    assert len(dataset.names) == classes == len(set(dataset.names))
    image, label = dataset.read(0)
    assert image.shape == (4, 6, 3) and image.dtype == np.uint8
    assert image[0, 0, 0] > 200 > 50 > image[0, 0, 2]
    assert label.dtype == np.uint16
    np.testing.assert_array_equal(label, np.repeat(np.resize(columns, 6)[None], 4, axis=0))


@pytest.mark.parametrize("name", SETS)
def test_an_empty_folder_is_refused_with_what_it_should_hold(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"(?s)expected .+ hold|unpack|prepare|csCreate"):
        open_dataset(name, tmp_path, "val")


def test_unknown_sets_and_splits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="coco-stuff.*got 'lvis'"):
        open_dataset("lvis", tmp_path, "val")
    with pytest.raises(ValueError, match="got 'test'"):
        open_dataset("cityscapes", tmp_path, "test")


@pytest.mark.parametrize(("name", "make"), [("ade20k-847", ade_847), ("pascal-context-459", context_459)])
def test_sets_without_shipped_names_say_where_names_go(
    tmp_path: Path, name: str, make: Callable[[Path], list[int]]
) -> None:
    make(tmp_path)
    for file in ("classes.txt", "labels.txt"):
        (tmp_path / file).unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError, match="--classes"):
        open_dataset(name, tmp_path, "val")


def test_other_names_are_taken_and_counted(tmp_path: Path) -> None:
    cityscapes(tmp_path)
    names = tmp_path / "names.txt"
    names.write_text("".join(f"a thing {i}\n" for i in range(19)))
    assert open_dataset("cityscapes", tmp_path, "val", names).names[18] == "a thing 18"
    (tmp_path / "names.json").write_text('["only one"]')
    with pytest.raises(ValueError, match="expected 19 class names .*got 1"):
        open_dataset("cityscapes", tmp_path, "val", tmp_path / "names.json")


def test_a_label_without_image_is_refused_by_name(tmp_path: Path) -> None:
    ade_150(tmp_path)
    write_label(tmp_path / "annotations/validation/lonely.png", [1])
    with pytest.raises(FileNotFoundError, match="images.*'lonely'"):
        open_dataset("ade20k-150", tmp_path, "val")


def test_labels_of_another_size_are_refused(tmp_path: Path) -> None:
    ade_150(tmp_path)
    write_label(tmp_path / "annotations/validation/ADE_val_00000001.png", [1], height=5)
    with pytest.raises(ValueError, match=r"\(4, 6\), got \(5, 6\)"):
        open_dataset("ade20k-150", tmp_path, "val").read(0)


@pytest.mark.parametrize(
    ("file", "some"),
    [
        ("coco-stuff", {0: "person", 79: "toothbrush", 80: "banner", 137: "road", 170: "wood"}),
        ("ade20k-150", {0: "wall", 7: "bed", 12: "person", 149: "flag"}),
        ("pascal-context-59", {0: "aeroplane", 1: "bag", 36: "person", 58: "wood"}),
        ("voc-20", {0: "aeroplane", 14: "person", 19: "tvmonitor"}),
        ("cityscapes", {0: "road", 11: "person", 18: "bicycle"}),
    ],
)
def test_shipped_names_stand_at_their_labels(file: str, some: dict[int, str]) -> None:
    names = set_names(file)
    assert {i: names[i] for i in some} == some
    assert all(name and name == name.strip() for name in names)


def test_values_without_a_column_are_ignored() -> None:
    table = lookup_table([3, 65534])
    assert table[[3, 4, 65534]].tolist() == [0, IGNORE, 1]


def test_a_known_set_without_a_split_val_is_split_as_the_embedded_model_trains(tmp_path: Path) -> None:
    space = shipped_label_spaces()["voc"]
    (tmp_path / "classes.txt").write_text("\n".join(space.classes))
    for kind, shape in (("image", (4, 6, 3)), ("label", (4, 6))):
        (tmp_path / "train" / kind).mkdir(parents=True)
        for index in range(20):
            cv2.imwrite(str(tmp_path / "train" / kind / f"{index:02}.png"), np.zeros(shape, np.uint8))
    names = {
        split: [image.stem for image, _ in open_dataset("folder", tmp_path, split).pairs]
        for split in ("train", "val")
    }
    assert names["val"] == ["09", "19"]
    assert sorted(names["train"] + names["val"]) == [f"{index:02}" for index in range(20)]
