"""The project's own form: SET/SPLIT/image/*, SET/SPLIT/label/*.png, SET/classes.txt."""

from pathlib import Path

from ovs_ros.training.data import IGNORE as EIGHT_BIT_IGNORE
from ovs_ros.training.data import labelled_images
from ovs_ros.training.datasets.dataset import SegmentationDataset, check_split, lookup_table
from ovs_ros.vocabulary.yaml_io import load_class_names

HOW = (
    "a labelled folder holds classes.txt (one name a line) and, for each of train and val, image/ and label/,"
    " PNG of the same names whose values are line numbers of classes.txt from 0, 255 ignored"
)


def open_folder(folder: Path, split: str, classes: Path | None = None) -> SegmentationDataset:
    """Open a set in the project's own form.

    Args:
        folder: holds classes.txt, train/ and val/.
        split: "train" or "val".
        classes: a file to take the names from instead of `folder`/classes.txt.

    Raises:
        FileNotFoundError: the folder has another form.
        ValueError: no such split, or more names than 8 bit labels can tell apart.
    """
    check_split(split)
    names_file = classes or folder / "classes.txt"
    if not names_file.is_file():
        raise FileNotFoundError(f"expected the class names in {names_file}, but there is no such file; {HOW}")
    names = tuple(load_class_names(names_file))
    if len(names) > EIGHT_BIT_IGNORE:
        raise ValueError(
            f"expected at most {EIGHT_BIT_IGNORE} names of classes of {folder}, got {len(names)}"
        )
    if not (folder / split / "image").is_dir():
        raise FileNotFoundError(f"expected the folder {folder / split / 'image'}, and it is missing; {HOW}")
    pairs = tuple((files.image, files.label) for files in labelled_images(folder / split))
    return SegmentationDataset(folder.name, names, pairs, lookup_table({i: i for i in range(len(names))}))
