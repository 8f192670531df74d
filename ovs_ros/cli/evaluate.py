"""`ovs evaluate`: how well the model names the pixels of a labelled set of images."""

import resource
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from ovs_ros.cli.common import (
    JsonOption,
    ModelsOption,
    Skipped,
    embed_words,
    load_segmenter,
    print_table,
    read_each,
    rounded,
    write_json,
)
from ovs_ros.cli.known_sets import ClassWords, held_out, words_of
from ovs_ros.cli.options import with_flags
from ovs_ros.cli.prediction_sets import evaluate_prediction_sets
from ovs_ros.cli.present_words import evaluate_present_words
from ovs_ros.cli.shots import sharing_features, take_shots
from ovs_ros.evaluation.labelled_folder import IGNORED, load_labelled_set
from ovs_ros.evaluation.metrics import ConfusionMatrix, SelectionRecall
from ovs_ros.evaluation.temperature_scaling import Reliability
from ovs_ros.options import OFF, LoadOptions, SegmenterOptions
from ovs_ros.runtime.checksums import update_checksum
from ovs_ros.runtime.files import write_atomically
from ovs_ros.runtime.processor import device_name
from ovs_ros.segmenter import Segmenter
from ovs_ros.steps.segmentation import Segmentation
from ovs_ros.vocabulary.knowledge import confusions_text, read_confusions
from ovs_ros.vocabulary.vocabulary import Vocabulary, name_key
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings
from ovs_ros.vocabulary.yaml_io import load_class_names


@with_flags(defaults={"negatives": OFF})
def evaluate(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Holds image/* and label/*.png of the same names.")
    ],
    classes: Annotated[
        Path | None,
        typer.Option("--classes", help="One name a line; default: the class file in DIR or above it."),
    ] = None,
    labels: Annotated[
        str,
        typer.Option(
            help="'label': DIR/label, line numbers of classes.txt from 0. 'fine': DIR/fine, line numbers of "
            "fine_names.txt from 1; 0 and the name 'unknown' are ignored. 'color': DIR/color, in the colours "
            "of colors.txt (R G B name, one a line); other colours are ignored."
        ),
    ] = "label",
    distractors: Annotated[
        Path | None, typer.Option(help="File with more names for the vocabulary, one a line.")
    ] = None,
    split_words: Annotated[
        Path | None,
        typer.Option(
            help="File with names, one a line, that were held out of training: their mIoU is reported "
            "separately, and they count as unseen in validation."
        ),
    ] = None,
    only_held_out: Annotated[
        bool,
        typer.Option(
            "--held-out",
            help="DIR is a split of a set that `ovs train embedded` knows: take only the images that it does "
            "not train on, and ask for the words of a union ('building or tree'), as it does itself.",
        ),
    ] = False,
    images: Annotated[
        int | None, typer.Option(min=1, help="At most this many images, at even distances in the set.")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare-exhaustive", help="Also segment each image without selection.")
    ] = False,
    conformal: Annotated[
        float | None,
        typer.Option(
            metavar="ALPHA",
            help="Also form prediction sets: in a share 1 - ALPHA of the images, a share 1 - ALPHA of the "
            "positions gets a set with the true name. Half of the images serve to fit them.",
        ),
    ] = None,
    confusions_file: Annotated[
        Path | None,
        typer.Option(
            "--confusions",
            help="Add the pairs of names that are often confused to this file: confusions.tsv in the model's "
            "folder is what `ovs vocabulary lint` and the node tell of.",
        ),
    ] = None,
    present_only: Annotated[
        bool,
        typer.Option(
            "--present-only",
            help="Also ask each image for the names that are in it and no others: their IoU, and the share "
            "of the ignored pixels that got a name. Try it with --negatives.",
        ),
    ] = False,
    shots: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="K",
            help="Take K images of each name as examples beside its word, and evaluate on the other images. "
            "Also tells what words alone and examples alone do there.",
        ),
    ] = 0,
    models: ModelsOption = None,
    network_file: Annotated[
        Path | None, typer.Option(help="Another network than the model's, as `ovs train network` exports it.")
    ] = None,
    json_file: JsonOption = None,
    *,
    load: LoadOptions,
    options: SegmenterOptions,
) -> None:
    """Measure mean intersection over union (mIoU), pixel accuracy, selection, calibration, time and memory.

    The class names are the vocabulary, each pixel gets one of them, and the mean is over the classes that
    occur in the labels. Labels are line numbers of the class file from 0; 255 is ignored.
    """
    dataset, space = load_labelled_set(folder, labels, classes), None
    names = dataset.names
    if only_held_out:
        dataset, space = held_out(dataset, folder)
    asked = words_of(names, space)
    if asked.words != tuple(names) and (shots or present_only or conformal is not None):
        raise ValueError(
            f"expected a set without unions for --shots, --present-only and --conformal, got {folder}"
        )
    unseen = frozenset() if split_words is None else _unseen(split_words, names)
    vocabulary = _with_distractors(asked.words, distractors)
    skipped = Skipped()
    taken = take_shots(dataset, shots, skipped) if shots else None
    if taken is not None:
        dataset = taken.others
    if images is not None:
        dataset = dataset.spread(images)
    segmenter = load_segmenter(load, options, models=models, network_file=network_file)
    known = segmenter.model.knowledge
    known = replace(known, labels=known.labels - {name_key(name) for name in unseen})
    segmenter = replace(segmenter, model=replace(segmenter.model, knowledge=known))
    if taken is not None:
        segmenter = sharing_features(segmenter)
    words = embed_words(segmenter, vocabulary if taken is None else taken.vocabulary(vocabulary))
    sets: dict[str, Any] = {}
    if conformal is not None:
        sets["conformal"] = evaluate_prediction_sets(segmenter, words, dataset, conformal, skipped)
    first = _Run(segmenter, names, asked)
    every = _Run(replace(segmenter, options=replace(segmenter.options, select=False)), names, asked)
    kept = SelectionRecall(len(names))
    alone: dict[str, tuple[_Run, WordEmbeddings]] = {}
    if taken is not None:
        pictured = taken.vocabulary(vocabulary, examples_only=True)
        for key, other in (("words_alone", vocabulary), ("examples_alone", pictured)):
            alone[key] = _Run(segmenter, names, asked), segmenter.embed(other)
    for _, (image, truth) in read_each(range(len(dataset)), dataset.read, skipped, "Evaluating"):
        result = first.add(image, truth, words)
        if compare:
            exhaustive = every.add(image, truth, words)
            kept.add(np.where(exhaustive.labels == truth, truth, IGNORED), result.selected_ids)
        for run, its_words in alone.values():
            run.add(image, truth, its_words)
    results: dict[str, Any] = {
        **_agreement(first.matrix, names, unseen),
        "images": len(dataset) - len(skipped),
        "ms_per_image": round(float(np.mean(first.times_ms)), 2),
        "model": segmenter.model.name,
        "selection": {
            "recall": rounded(first.selection.recall),
            "recall_any": rounded(first.selection.recall_any),
            "survivors": rounded(first.selection.mean_survivors),
        },
        "ece": rounded(first.reliability.error()),
        "mean_confidence": rounded(first.reliability.mean_confidence),
        "names": len(vocabulary),
        "device": device_name(segmenter.model.device),
        "peak_memory_mb": _peak_memory_mb(),
    }
    if compare:
        results["exhaustive"] = {
            **_agreement(every.matrix, names, unseen),
            "ms_per_image": round(float(np.mean(every.times_ms)), 2),
            # Of medians, which a busy moment does not move.
            "speedup": round(float(np.median(every.times_ms) / np.median(first.times_ms)), 3),
            "kept": rounded(kept.recall),
        }
    if taken is not None:
        sets["shots"] = {
            "shots": shots,
            "example_images": taken.images,
            **{key: rounded(run.matrix.mean_iou) for key, (run, _) in alone.items()},
        }
    if present_only:
        sets["present_only"] = evaluate_present_words(segmenter, dataset, skipped)
    results |= sets
    # Of each class with mistakes: what it was most often taken for, and for what share of its pixels.
    others = [*names, "none of the classes"]
    results["mistaken_for"] = {
        name: {others[other]: rounded(share)}
        for name, other, share in zip(names, *first.matrix.mistaken, strict=True)
        if share > 0
    }
    _print(results)
    write_json(json_file, results)
    if confusions_file is not None:
        confusions = read_confusions(confusions_file) | first.matrix.confusions(names)
        write_atomically(confusions_file, confusions_text(confusions).encode())
        update_checksum(confusions_file)
    skipped.end()


class _Run:
    """One way to segment the images, and what is counted of it."""

    def __init__(self, segmenter: Segmenter, names: list[str], asked: ClassWords) -> None:
        self.segmenter = segmenter
        self._classes = asked.classes
        self.matrix = ConfusionMatrix(len(names))
        self.selection = SelectionRecall(len(names))
        self.reliability = Reliability()
        self.times_ms: list[float] = []

    def add(self, image: NDArray[np.uint8], truth: NDArray[np.uint8], words: WordEmbeddings) -> Segmentation:
        """Segment an image, and count. The result has classes where it had the ids of words."""
        start = perf_counter()
        result = self.segmenter.segment(image, words)
        self.times_ms.append((perf_counter() - start) * 1e3)
        labels, selected = self._classes[result.labels], self._classes[result.selected_ids]
        self.matrix.add(truth, labels)
        self.selection.add(truth, selected)
        # Nothing is claimed of pixels without a name.
        named = (truth != IGNORED) & (result.labels != result.unknown_id)
        self.reliability.add(result.confidence[named], labels[named] == truth[named])
        return replace(result, labels=labels, selected_ids=selected)


def _agreement(matrix: ConfusionMatrix, names: list[str], unseen: frozenset[str]) -> dict[str, Any]:
    """mIoU, pixel accuracy, IoU by class and, where names are held out, the mIoU of both kinds."""
    results = {
        "miou": rounded(matrix.mean_iou),
        "pixel_accuracy": rounded(matrix.pixel_accuracy),
        "per_class": dict(zip(names, map(rounded, matrix.iou), strict=True)),
    }
    if unseen:
        for key, out in (("seen", False), ("held_out", True)):
            iou = matrix.iou[[(name in unseen) == out for name in names]]
            iou = iou[~np.isnan(iou)]
            results[key] = {"miou": rounded(iou.mean()) if iou.size else None, "classes": iou.size}
    return results


def _peak_memory_mb() -> float:
    """The most memory that this process ever held, in megabytes of 10^6 bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Bytes on macOS, else KiB.
    return round(most * (1 if sys.platform == "darwin" else 1024) / 1e6, 1)


def _unseen(file: Path, names: Iterable[str]) -> frozenset[str]:
    """The class names that a file names.

    Raises:
        ValueError: it names none of them.
    """
    keys = {name_key(name) for name in load_class_names(file)}
    unseen = frozenset(name for name in names if name_key(name) in keys)
    if not unseen:
        raise ValueError(f"expected class names in {file}, got none of them; is it another set's?")
    return unseen


def _with_distractors(names: Sequence[str], file: Path | None) -> Vocabulary:
    """The names, and those of a file that are not among them, each once."""
    known = {name_key(name) for name in names}
    more = {name_key(name): name for name in (load_class_names(file) if file else ())}
    return Vocabulary.from_names([*names, *(name for key, name in more.items() if key not in known)])


def _print(results: dict[str, Any]) -> None:
    """The classes, the best first, and every figure of the JSON under its key there."""
    per_class, mistaken = results["per_class"], results["mistaken_for"]
    rows = []
    for name in sorted(per_class, key=lambda name: -1 if per_class[name] is None else -per_class[name]):
        for other, share in mistaken.get(name, {"": None}).items():
            taken = "" if share is None else f"{share:.0%} {other}"
        rows.append([name, "does not occur" if per_class[name] is None else f"{per_class[name]:.3f}", taken])
    print_table(["class", "IoU", "most often mistaken for"], rows)
    print_table(["measure", "value"], _figures(results))


def _figures(results: dict[str, Any], within: str = "") -> Iterator[tuple[str, str]]:
    for key, value in results.items():
        if key in ("per_class", "mistaken_for"):
            continue
        name = f"{within}{key.replace('_', ' ')}"
        if isinstance(value, dict):
            yield from _figures(value, f"{name}: ")
        else:
            yield name, "–" if value is None else str(value)
