"""ADE20K with 150 classes (the scene parsing challenge of 2016) and with all 847 frequent ones."""

from pathlib import Path

from ovs_ros.training.datasets.dataset import (
    SegmentationDataset,
    check_split,
    class_names,
    lookup_table,
    paired,
)

PARTS = {"train": "training", "val": "validation"}
HOW_150 = (
    "ADEChallengeData2016.zip of data.csail.mit.edu/places/ADEchallenge unpacks to images/ and annotations/,"
    " each with training/ and validation/"
)
HOW_847 = (
    "ask for ADE20K_2021_17_01 at groups.csail.mit.edu/vision/datasets/ADE20K and run MaskFormer's"
    " prepare_ade20k_full_sem_seg.py, which makes images_detectron2/ and annotations_detectron2/; the names,"
    " one a line or as a JSON list in the order of that script's trainId, go into classes.txt beside them or"
    " into a file named with --classes"
)


def open_ade20k_150(folder: Path, split: str, classes: Path | None = None) -> SegmentationDataset:
    """Open ADEChallengeData2016: labels from 1 to 150, 0 is ignored.

    Args:
        folder: holds images/ and annotations/.
        split: "train" or "val".
        classes: other names for the 150 classes, one a line.

    Raises:
        FileNotFoundError: the folder has another form.
        ValueError: no such split, or another number of names.
    """
    check_split(split)
    names = class_names(150, shipped="ade20k_150", given=classes, how=HOW_150)
    part = PARTS[split]
    pairs = paired((folder / "images" / part, ".jpg"), (folder / "annotations" / part, ".png"), how=HOW_150)
    return SegmentationDataset("ade20k-150", names, pairs, lookup_table({i + 1: i for i in range(150)}))


def open_ade20k_847(folder: Path, split: str, classes: Path | None = None) -> SegmentationDataset:
    """Open ADE20K_2021_17_01 as MaskFormer's script prepares it: uint16 TIFF, 65535 is ignored.

    Args:
        folder: holds images_detectron2/ and annotations_detectron2/.
        split: "train" or "val".
        classes: the names, one a line; None: `folder`/classes.txt.

    Raises:
        FileNotFoundError: the folder has another form, or there are no names.
        ValueError: no such split, or another number of names.
    """
    check_split(split)
    part = PARTS[split]
    labels = folder / "annotations_detectron2" / part
    pairs = paired((folder / "images_detectron2" / part, ".jpg"), (labels, ".tif"), how=HOW_847)
    names = class_names(847, shipped=None, given=classes or folder / "classes.txt", how=HOW_847)
    return SegmentationDataset("ade20k-847", names, pairs, lookup_table({i: i for i in range(847)}))
