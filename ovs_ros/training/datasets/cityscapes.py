"""Cityscapes with its 19 evaluation classes."""

from pathlib import Path

from ovs_ros.training.datasets.dataset import (
    SegmentationDataset,
    check_split,
    class_names,
    lookup_table,
    paired,
)

HOW = (
    "a Cityscapes folder holds leftImg8bit/{train,val}/CITY/*_leftImg8bit.png (leftImg8bit_trainvaltest.zip)"
    " and gtFine/{train,val}/CITY/*_gtFine_labelTrainIds.png (gtFine_trainvaltest.zip, then"
    " 'CITYSCAPES_DATASET=DIR csCreateTrainIdLabelImgs' of pip install cityscapesscripts)"
)


def open_cityscapes(folder: Path, split: str, classes: Path | None = None) -> SegmentationDataset:
    """Open Cityscapes: labelTrainIds from 0 to 18, 255 is ignored.

    Args:
        folder: holds leftImg8bit/ and gtFine/.
        split: "train" or "val".
        classes: other names for the 19 classes, one a line.

    Raises:
        FileNotFoundError: the folder has another form.
        ValueError: no such split, or another number of names.
    """
    check_split(split)
    names = class_names(19, shipped="cityscapes_19", given=classes, how=HOW)
    place = folder / "gtFine" / split
    if not place.is_dir():
        raise FileNotFoundError(f"expected the folder {place}, and it is missing; {HOW}")
    cities = sorted(city for city in place.iterdir() if city.is_dir())
    if not cities:
        raise FileNotFoundError(f"expected a folder for each city in {place}, but found none; {HOW}")
    pairs: list[tuple[Path, Path]] = []
    for city in cities:
        images = folder / "leftImg8bit" / split / city.name
        pairs += paired((images, "_leftImg8bit.png"), (city, "_gtFine_labelTrainIds.png"), how=HOW)
    return SegmentationDataset("cityscapes", names, tuple(pairs), lookup_table({i: i for i in range(19)}))
