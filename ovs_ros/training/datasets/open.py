"""Every set that training reads, by name."""

from collections.abc import Callable
from pathlib import Path

from ovs_ros.training.datasets.ade20k import open_ade20k_150, open_ade20k_847
from ovs_ros.training.datasets.cityscapes import open_cityscapes
from ovs_ros.training.datasets.coco_stuff import open_coco_stuff
from ovs_ros.training.datasets.dataset import SegmentationDataset
from ovs_ros.training.datasets.folder import open_folder
from ovs_ros.training.datasets.pascal import open_pascal_context_59, open_pascal_context_459, open_voc_20

Open = Callable[[Path, str, Path | None], SegmentationDataset]

DATASETS: dict[str, Open] = {
    "coco-stuff": open_coco_stuff,
    "ade20k-150": open_ade20k_150,
    "ade20k-847": open_ade20k_847,
    "pascal-context-59": open_pascal_context_59,
    "pascal-context-459": open_pascal_context_459,
    "voc-20": open_voc_20,
    "cityscapes": open_cityscapes,
    "folder": open_folder,
}


def open_dataset(name: str, folder: Path, split: str, classes: Path | None = None) -> SegmentationDataset:
    """Open a split of a set.

    Args:
        name: one of `DATASETS`.
        folder: where the data set is; each reader says which form it expects.
        split: "train" or "val".
        classes: other class names, one a line.

    Raises:
        FileNotFoundError: the folder has another form; the message says how to get the set.
        ValueError: no such set or split, or another number of names.
    """
    if name not in DATASETS:
        raise ValueError(f"expected a set out of {', '.join(DATASETS)}, got {name!r}")
    return DATASETS[name](folder, split, classes)
