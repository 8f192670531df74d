"""PASCAL VOC 2012 without background, and PASCAL-Context with 59 and with all 459 classes."""

import re
from pathlib import Path

from ovs_ros.training.datasets.dataset import (
    SegmentationDataset,
    check_split,
    class_names,
    files_in,
    lookup_table,
    matched,
    paired,
    read_list,
)

HOW_VOC = (
    "VOCtrainval_11-May-2012.tar of host.robots.ox.ac.uk/pascal/VOC unpacks to VOCdevkit/VOC2012 with"
    " JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/"
)
HOW_CONTEXT = (
    "a VOC2010 folder holds JPEGImages/ (VOCtrainval_03-May-2010.tar) and, made by CAT-Seg's"
    " prepare_pascal_context_59.py and prepare_pascal_context_459.py, annotations_detectron2/pc59_val (PNG)"
    " and pc459_val (TIFF); those scripts make the split val only"
)
HOW_459 = (
    "the names are labels.txt of PASCAL-Context (cs.stanford.edu/~roozbeh/pascal-context), lines of the form"
    " '1: accordion', beside JPEGImages/, or a file with one name a line given with --classes"
)


def open_voc_20(folder: Path, split: str, classes: Path | None = None) -> SegmentationDataset:
    """Open VOC 2012: 20 classes, background and borders are ignored.

    Labels are taken from the first of these that is there: annotations_detectron2/SPLIT/*.png (0 to 19, 255
    ignored), else SegmentationClassAug/*.png or SegmentationClass/*.png (1 to 20, as numbers or in VOC's
    palette) by the list ImageSets/Segmentation/SPLIT.txt.

    Args:
        folder: VOCdevkit/VOC2012.
        split: "train" or "val".
        classes: other names for the 20 classes, one a line.

    Raises:
        FileNotFoundError: the folder has another form.
        ValueError: no such split, or another number of names.
    """
    check_split(split)
    names = class_names(20, shipped="voc_20", given=classes, how=HOW_VOC)
    images = (folder / "JPEGImages", ".jpg")
    prepared = folder / "annotations_detectron2" / split
    if prepared.is_dir():
        pairs = paired(images, (prepared, ".png"), how=HOW_VOC)
        return SegmentationDataset("voc-20", names, pairs, lookup_table({i: i for i in range(20)}))
    wanted = read_list(folder / "ImageSets" / "Segmentation" / f"{split}.txt", how=HOW_VOC)
    augmented = folder / "SegmentationClassAug"
    place = augmented if augmented.is_dir() else folder / "SegmentationClass"
    pairs = matched(files_in(*images, how=HOW_VOC), files_in(place, ".png", how=HOW_VOC), wanted, how=HOW_VOC)
    return SegmentationDataset(
        "voc-20", names, pairs, lookup_table({i + 1: i for i in range(20)}), palette=True
    )


def open_pascal_context_59(folder: Path, split: str, classes: Path | None = None) -> SegmentationDataset:
    """Open PASCAL-Context with 59 classes: PNG from 0 to 58, in the order of the names; 255 is ignored.

    Args:
        folder: VOCdevkit/VOC2010.
        split: "train" or "val".
        classes: other names for the 59 classes, one a line.

    Raises:
        FileNotFoundError: the folder has another form.
        ValueError: no such split, or another number of names.
    """
    check_split(split)
    pairs = _context_pairs(folder, f"pc59_{split}", ".png")
    names = class_names(59, shipped="pascal_context_59", given=classes, how=HOW_CONTEXT)
    return SegmentationDataset("pascal-context-59", names, pairs, lookup_table({i: i for i in range(59)}))


def open_pascal_context_459(folder: Path, split: str, classes: Path | None = None) -> SegmentationDataset:
    """Open PASCAL-Context with 459 classes: TIFF from 0 to 458; higher values are ignored.

    Args:
        folder: VOCdevkit/VOC2010.
        split: "train" or "val".
        classes: the names, one a line; None: `folder`/labels.txt, as PASCAL-Context comes with.

    Raises:
        FileNotFoundError: the folder has another form, or there are no names.
        ValueError: no such split, or another number of names.
    """
    check_split(split)
    pairs = _context_pairs(folder, f"pc459_{split}", ".tif")
    if classes is None:
        lines = read_list(folder / "labels.txt", how=HOW_459)
        numbered = {int(m[1]): m[2] for m in (re.fullmatch(r"(\d+)\s*:\s*(.+)", line) for line in lines) if m}
        if not all(i in numbered for i in range(1, 460)):
            raise ValueError(f"expected the classes 1 to 459 in {folder / 'labels.txt'}; {HOW_459}")
        names = tuple(numbered[i] for i in range(1, 460))
    else:
        names = class_names(459, shipped=None, given=classes, how=HOW_459)
    return SegmentationDataset("pascal-context-459", names, pairs, lookup_table({i: i for i in range(459)}))


def _context_pairs(folder: Path, part: str, ending: str) -> tuple[tuple[Path, Path], ...]:
    labels = folder / "annotations_detectron2" / part
    return paired((folder / "JPEGImages", ".jpg"), (labels, ending), how=HOW_CONTEXT)
