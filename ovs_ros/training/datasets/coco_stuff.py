"""COCO-Stuff, 171 classes (Caesar, Uijlings, Ferrari, "COCO-Stuff: Thing and Stuff Classes in Context")."""

from pathlib import Path

from ovs_ros.training.datasets.dataset import (
    SegmentationDataset,
    check_split,
    class_names,
    lookup_table,
    paired,
)

CLASSES = 171
UNUSED = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
"""Label values from 0 to 181 in stuffthingmaps that stand for none of the 171 classes."""
HOW = (
    "a COCO-Stuff folder holds images/{train,val}2017 (train2017.zip and val2017.zip of cocodataset.org) and"
    " annotations/{train,val}2017 (stuffthingmaps_trainval2017.zip of github.com/nightrome/cocostuff), raw or"
    " as mmsegmentation's or detectron2's preparation script leaves them"
)


def open_coco_stuff(folder: Path, split: str, classes: Path | None = None) -> SegmentationDataset:
    """Open COCO-Stuff (164k).

    Labels are taken from the first of these that is there: annotations/SPLIT2017/*_labelTrainIds.png
    (mmsegmentation), annotations_detectron2/SPLIT2017/*.png (detectron2), annotations/SPLIT2017/*.png or
    stuffthingmaps/SPLIT2017/*.png (raw).

    Args:
        folder: holds images/ and annotations/.
        split: "train" or "val".
        classes: other names for the 171 classes, one a line.

    Raises:
        FileNotFoundError: the folder has another form.
        ValueError: no such split, or another number of names.
    """
    check_split(split)
    part = f"{split}2017"
    names = class_names(CLASSES, shipped="coco_stuff_171", given=classes, how=HOW)
    images = (folder / "images" / part, ".jpg")
    prepared = lookup_table({i: i for i in range(CLASSES)})
    raw = lookup_table({v: i for i, v in enumerate(v for v in range(182) if v not in UNUSED)})
    forms = (
        (folder / "annotations" / part, "_labelTrainIds.png", prepared),
        (folder / "annotations_detectron2" / part, ".png", prepared),
        (folder / "annotations" / part, ".png", raw),
        (folder / "stuffthingmaps" / part, ".png", raw),
    )
    for place, ending, lookup in forms:
        if any(place.glob(f"*{ending}")):
            return SegmentationDataset("coco-stuff", names, paired(images, (place, ending), how=HOW), lookup)
    raise FileNotFoundError(f"expected labels in {folder / 'annotations' / part}, but found none; {HOW}")
