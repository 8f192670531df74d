"""Segmentation sets in their usual folder forms: `open_dataset` gives a `SegmentationDataset` of each."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ovs_ros.evaluation.labelled_folder import labelled_pairs, read_mask
from ovs_ros.runtime.images import read_image
from ovs_ros.training.data import IGNORE, UNLABELLED, read_names
from ovs_ros.training.label_spaces import known_space
from ovs_ros.vocabulary.set_names import set_names
from ovs_ros.vocabulary.yaml_io import load_class_names

VALUES = 65536
SPLITS = ("train", "val")


@dataclass(frozen=True, eq=False)
class SegmentationDataset:
    """A split of a labelled set.

    Attributes:
        name: of the set, for logs.
        names: of the classes; a label is an index here.
        pairs: (image, label) files, sorted.
        lookup: (65536,) uint16, label value in the files -> index in `names`, or IGNORE.
    """

    name: str
    names: tuple[str, ...]
    pairs: tuple[tuple[Path, Path], ...]
    lookup: NDArray[np.uint16]

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
        """One image as RGB (H, W, 3) uint8 and its labels (H, W) uint16: indices of `names`, or IGNORE.

        Raises:
            ValueError: a file is no such image, or the two differ in size.
        """
        image_file, label_file = self.pairs[index]
        image = read_image(image_file)
        values = read_mask(label_file)
        if values.shape != image.shape[:2]:
            raise ValueError(
                f"expected labels of the size of {image_file}, {image.shape[:2]}, got {values.shape} in"
                f" {label_file}; do both folders come from the same release?"
            )
        return image, self.lookup[values]


@dataclass(frozen=True)
class Form:
    """One way in which a set's files lie; {split}, {part} and * stand for the split and for any name.

    Attributes:
        images, labels: where the files are; what stands for * in the file's name is the same in both.
        values: the label values of the classes in their order, if they do not count from 0.
        listed: a file with the names that belong to the split.
    """

    images: str
    labels: str
    values: Sequence[int] | None = None
    listed: str = ""


@dataclass(frozen=True)
class Layout:
    """A set.

    Attributes:
        count: of its classes.
        how: where to get it, for errors.
        forms: the first one whose labels are there is taken.
        names: the file of class names; '': they ship with the package.
        parts: what {part} stands for in train and val.
    """

    count: int
    how: str
    forms: tuple[Form, ...]
    names: str = ""
    parts: tuple[str, str] = SPLITS


_COCO_IMAGES = "images/{split}2017/*.jpg"
_COCO_UNUSED = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
_COCO_RAW = tuple(value for value in range(182) if value not in _COCO_UNUSED)
_VOC_LIST = "ImageSets/Segmentation/{split}.txt"
_CONTEXT = (
    "a VOC2010 folder holds JPEGImages/ (VOCtrainval_03-May-2010.tar) and, made by CAT-Seg's"
    " prepare_pascal_context_59.py and prepare_pascal_context_459.py, annotations_detectron2/pc59_val (PNG)"
    " and pc459_val (TIFF); those scripts make the split val only"
)

LAYOUTS = {
    "coco-stuff": Layout(
        171,
        "a COCO-Stuff folder holds images/{train,val}2017 (train2017.zip and val2017.zip of cocodataset.org)"
        " and annotations/{train,val}2017 (stuffthingmaps_trainval2017.zip of"
        " github.com/nightrome/cocostuff), raw or as mmsegmentation's or detectron2's preparation script"
        " leaves them",
        (
            Form(_COCO_IMAGES, "annotations/{split}2017/*_labelTrainIds.png"),
            Form(_COCO_IMAGES, "annotations_detectron2/{split}2017/*.png"),
            Form(_COCO_IMAGES, "annotations/{split}2017/*.png", _COCO_RAW),
            Form(_COCO_IMAGES, "stuffthingmaps/{split}2017/*.png", _COCO_RAW),
        ),
    ),
    "ade20k-150": Layout(
        150,
        "ADEChallengeData2016.zip of data.csail.mit.edu/places/ADEchallenge unpacks to images/ and"
        " annotations/, each with training/ and validation/",
        (Form("images/{part}/*.jpg", "annotations/{part}/*.png", range(1, 151)),),
        parts=("training", "validation"),
    ),
    "ade20k-847": Layout(
        847,
        "ask for ADE20K_2021_17_01 at groups.csail.mit.edu/vision/datasets/ADE20K and run MaskFormer's"
        " prepare_ade20k_full_sem_seg.py, which makes images_detectron2/ and annotations_detectron2/; the"
        " names, one a line or as a JSON list in the order of that script's trainId, go into classes.txt"
        " beside them or into a file named with --classes",
        (Form("images_detectron2/{part}/*.jpg", "annotations_detectron2/{part}/*.tif"),),
        "classes.txt",
        ("training", "validation"),
    ),
    "pascal-context-59": Layout(
        59, _CONTEXT, (Form("JPEGImages/*.jpg", "annotations_detectron2/pc59_{split}/*.png"),)
    ),
    "pascal-context-459": Layout(
        459,
        f"{_CONTEXT}; the names are labels.txt of PASCAL-Context (cs.stanford.edu/~roozbeh/pascal-context),"
        " lines of the form '1: accordion', beside JPEGImages/, or a file with one name a line given with"
        " --classes",
        (Form("JPEGImages/*.jpg", "annotations_detectron2/pc459_{split}/*.tif"),),
        "labels.txt",
    ),
    "voc-20": Layout(
        20,
        "VOCtrainval_11-May-2012.tar of host.robots.ox.ac.uk/pascal/VOC unpacks to VOCdevkit/VOC2012 with"
        " JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/",
        (
            Form("JPEGImages/*.jpg", "annotations_detectron2/{split}/*.png"),
            *(
                Form("JPEGImages/*.jpg", f"{place}/*.png", range(1, 21), _VOC_LIST)
                for place in ("SegmentationClassAug", "SegmentationClass")
            ),
        ),
    ),
    "cityscapes": Layout(
        19,
        "a Cityscapes folder holds leftImg8bit/{train,val}/CITY/*_leftImg8bit.png"
        " (leftImg8bit_trainvaltest.zip) and gtFine/{train,val}/CITY/*_gtFine_labelTrainIds.png"
        " (gtFine_trainvaltest.zip, then 'CITYSCAPES_DATASET=DIR csCreateTrainIdLabelImgs' of pip install"
        " cityscapesscripts)",
        (Form("leftImg8bit/{split}/*/*_leftImg8bit.png", "gtFine/{split}/*/*_gtFine_labelTrainIds.png"),),
    ),
}
SETS = (*LAYOUTS, "folder")
FOLDER = (
    "a labelled folder holds classes.txt (one name a line) and, for each of train and val, image/ and label/,"
    " PNG of the same names whose values are line numbers of classes.txt from 0, 255 ignored"
)


def open_dataset(name: str, folder: Path, split: str, classes: Path | None = None) -> SegmentationDataset:
    """Open a split of a set.

    Args:
        name: one of `SETS`.
        folder: where the data set is.
        split: "train" or "val".
        classes: other class names, one a line or as a JSON list.

    Raises:
        FileNotFoundError: the folder has another form; the message says how to get the set.
        ValueError: no such set or split, or another number of names.
    """
    if name not in SETS:
        raise ValueError(f"expected a set out of {', '.join(SETS)}, got {name!r}")
    if split not in SPLITS:
        raise ValueError(f"expected the split 'train' or 'val', got {split!r}")
    if name == "folder":
        return _open_folder(folder, split, classes)
    layout = LAYOUTS[name]
    part = layout.parts[SPLITS.index(split)]

    def files(pattern: str) -> dict[str, Path]:
        """The files of a pattern by what stands for the last * in it, sorted."""
        pattern = pattern.format(split=split, part=part)
        ending = pattern.rpartition("*")[2]
        return {path.name.removesuffix(ending): path for path in sorted(folder.glob(pattern))}

    form = next((form for form in layout.forms if files(form.labels)), None)
    if form is None:
        wanted = " or ".join(form.labels.format(split=split, part=part) for form in layout.forms)
        raise FileNotFoundError(f"expected labels {wanted} in {folder}, but found none; {layout.how}")
    labels = files(form.labels)
    listed = folder / form.listed.format(split=split)
    pairs = _matched(
        files(form.images), labels, read_names(listed) if form.listed else list(labels), layout.how
    )
    values = range(layout.count) if form.values is None else form.values
    names = _class_names(name, layout, folder, classes)
    return SegmentationDataset(name, names, pairs, lookup_table(values))


def _open_folder(folder: Path, split: str, classes: Path | None) -> SegmentationDataset:
    """The project's own form.

    A set without a split val that `ovs train embedded` knows is split as it does.
    """
    file = classes or folder / "classes.txt"
    if not file.is_file():
        raise FileNotFoundError(f"expected the class names in {file}, but there is no such file; {FOLDER}")
    names = tuple(load_class_names(file))
    if len(names) > UNLABELLED:
        raise ValueError(f"expected at most {UNLABELLED} names of classes of {folder}, got {len(names)}")
    rule = None
    if not (folder / "val").is_dir() and (space := known_space(names)) is not None:
        rule, kept = space.hold_out, split == "val"
        split = "train"
    if not (folder / split / "image").is_dir():
        raise FileNotFoundError(
            f"expected the folder {folder / split / 'image'}, and it is missing; {FOLDER}"
        )
    pairs = tuple(labelled_pairs(folder / split))
    if rule is not None:
        pairs = tuple(pair for index, pair in enumerate(pairs) if rule.keeps(index) == kept)
    return SegmentationDataset(folder.name, names, pairs, lookup_table(range(len(names))))


def _matched(
    images: dict[str, Path], labels: dict[str, Path], wanted: Sequence[str], how: str
) -> tuple[tuple[Path, Path], ...]:
    """The (image, label) pairs of the wanted names."""
    for kind, there in (("images", images), ("label files", labels)):
        missing = [name for name in wanted if name not in there]
        if missing:
            raise FileNotFoundError(
                f"expected {kind} for all of {len(wanted)} names, got none for {len(missing)} of them,"
                f" such as {missing[0]!r}; {how}"
            )
    return tuple((images[name], labels[name]) for name in wanted)


def _class_names(name: str, layout: Layout, folder: Path, given: Path | None) -> tuple[str, ...]:
    """A set's class names, one for each label; lines of the form '1: accordion' are sorted, 0 left out."""
    if given is None and not layout.names:
        return set_names(name)
    file = given or folder / layout.names
    if not file.is_file():
        raise FileNotFoundError(
            f"expected the {layout.count} class names in {file}, but there is no such file; {layout.how}"
        )
    if file.suffix == ".json":
        names = [str(one).strip() for one in json.loads(file.read_text(encoding="utf-8"))]
    else:
        names = load_class_names(file)
        numbered = [re.fullmatch(r"(\d+)\s*:\s*(.+)", line) for line in names]
        if all(numbered):
            by_number = {int(match[1]): match[2] for match in numbered if match}
            names = [by_number[number] for number in sorted(by_number) if number > 0]
    if len(names) != layout.count:
        raise ValueError(f"expected {layout.count} class names in {file}, got {len(names)}; {layout.how}")
    return tuple(names)


def lookup_table(values: Sequence[int]) -> NDArray[np.uint16]:
    """The table of `SegmentationDataset.lookup` from the classes' label values; all others are ignored."""
    table = np.full(VALUES, IGNORE, np.uint16)
    table[list(values)] = np.arange(len(values))
    return table
