"""`ovs evaluate`: how well the model names the pixels of a labelled set of images."""

from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Annotated

import cv2
import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from ovs_ros.cli.common import (
    ExhaustiveOption,
    JsonOption,
    PresetOption,
    console,
    embed_words,
    list_images,
    load_segmenter,
    progress_bar,
    read_image,
    user_errors,
    write_json,
)
from ovs_ros.segmentation.metrics import ConfusionMatrix
from ovs_ros.segmentation.options import SUPPRESSIONS, SegmenterOptions
from ovs_ros.vocabulary.vocabulary import Vocabulary
from ovs_ros.vocabulary.yaml_io import load_class_names

CLASSES_FILE = "classes.txt"
IGNORED = 255
DEFAULTS = SegmenterOptions()


def evaluate(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Holds image/* and label/*.png of the same names.")
    ],
    classes: Annotated[
        Path | None,
        typer.Option("--classes", help="One name a line; default: classes.txt in DIR or above it."),
    ] = None,
    preset: PresetOption = "stream",
    exhaustive: ExhaustiveOption = False,
    suppression: Annotated[
        str, typer.Option(help=f"How dominant categories are held back: {', '.join(SUPPRESSIONS)}.")
    ] = DEFAULTS.suppression,
    theta: Annotated[
        float, typer.Option(help="Image probability above which a category is selected in any case.")
    ] = DEFAULTS.theta,
    json_file: JsonOption = None,
) -> None:
    """Measure mean intersection over union (mIoU), pixel accuracy and time.

    Labels are line numbers of the class file from 0; 255 is left out. The class names are the vocabulary,
    each pixel gets one of them, and the mean is over the classes that occur in the labels.
    """
    with user_errors():
        pairs = _pairs(folder)
        names = load_class_names(classes if classes is not None else _find_classes(folder))
        if len(names) > IGNORED:
            raise ValueError(f"expected at most {IGNORED} classes, got {len(names)}; labels have 8 bit")
        segmenter = load_segmenter(preset, select=not exhaustive, suppression=suppression, theta=theta)
        words = embed_words(segmenter, Vocabulary.from_names(names))
        matrix = ConfusionMatrix(len(names))
        seconds = 0.0
        with progress_bar() as bar:
            for image_file, label_file in bar.track(pairs, description="Evaluating"):
                image, truth = read_image(image_file), _read_labels(label_file, len(names))
                if truth.shape != image.shape[:2]:
                    raise ValueError(
                        f"expected labels of shape {image.shape[:2]} in {label_file}, as its image has, "
                        f"got {truth.shape}"
                    )
                start = perf_counter()
                result = segmenter.segment(image, words)
                seconds += perf_counter() - start
                matrix.add(truth, result.labels)
        iou = matrix.iou
        results = {
            "miou": _rounded(matrix.mean_iou),
            "pixel_accuracy": _rounded(matrix.pixel_accuracy),
            "per_class": {name: _rounded(value) for name, value in zip(names, iou, strict=True)},
            "images": len(pairs),
            "ms_per_image": round(seconds / len(pairs) * 1e3, 2),
            "model": segmenter.image_encoder.name,
        }
        _print(results, names, iou)
        if json_file:
            write_json(json_file, results)


def _pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Every image with its labels."""
    if not (folder / "image").is_dir() or not (folder / "label").is_dir():
        raise ValueError(f"expected the folders image and label in {folder}, and they are not there")
    pairs = [(image, folder / "label" / f"{image.stem}.png") for image in list_images(folder / "image")]
    missing = [label for _, label in pairs if not label.is_file()]
    if missing:
        raise ValueError(
            f"expected labels for each image, got none for {len(missing)} of {len(pairs)}, as {missing[0]}"
        )
    return pairs


def _find_classes(folder: Path) -> Path:
    for place in (folder, *folder.resolve().parents):
        if (place / CLASSES_FILE).is_file():
            return place / CLASSES_FILE
    raise ValueError(
        f"expected {CLASSES_FILE} in {folder} or above it, and found none; name one with --classes"
    )


def _read_labels(path: Path, classes: int) -> NDArray[np.uint8]:
    labels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED) if path.stat().st_size else None
    if labels is None or labels.ndim != 2 or labels.dtype != np.uint8:
        got = "no image" if labels is None else f"{labels.dtype} of shape {labels.shape}"
        raise ValueError(f"expected labels of one 8 bit channel in {path}, got {got}")
    outside = labels[(labels >= classes) & (labels != IGNORED)]
    if outside.size:
        raise ValueError(
            f"expected labels below {classes}, the number of classes, or {IGNORED} in {path}, "
            f"got {outside[0]}; is it another class file's?"
        )
    return labels


def _rounded(value: float) -> float | None:
    """Four digits; JSON has no NaN."""
    return None if np.isnan(value) else round(float(value), 4)


def _print(results: Mapping[str, object], names: list[str], iou: NDArray[np.float64]) -> None:
    table = Table("class", "IoU")
    for name, value in sorted(zip(names, iou, strict=True), key=lambda pair: -np.nan_to_num(pair[1], nan=-1)):
        table.add_row(Text(name), "does not occur" if np.isnan(value) else f"{value:.3f}")
    console.print(table)
    summary = Table("images", "mIoU", "pixel accuracy", "ms per image", "model")
    summary.add_row(
        *(str(results[key]) for key in ("images", "miou", "pixel_accuracy", "ms_per_image", "model"))
    )
    console.print(summary)
