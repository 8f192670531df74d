"""`ovs evaluate`: how well the model names the pixels of a labelled set of images."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from ovs_ros.cli.common import (
    JsonOption,
    Skipped,
    console,
    embed_words,
    load_segmenter,
    read_each,
    user_errors,
    write_json,
)
from ovs_ros.cli.measures import (
    Agreement,
    CalibrationReport,
    Measure,
    SelectionReport,
    peak_memory_mb,
    rounded,
)
from ovs_ros.cli.options import with_flags
from ovs_ros.cli.prediction_sets import evaluate_prediction_sets
from ovs_ros.evaluation.labelled_folder import IGNORED, load_labelled_set
from ovs_ros.evaluation.metrics import SelectionRecall
from ovs_ros.options import LoadOptions, SegmenterOptions
from ovs_ros.runtime.processor import device_name
from ovs_ros.segmenter import Segmenter
from ovs_ros.steps.segmentation import Segmentation
from ovs_ros.vocabulary.vocabulary import Vocabulary, name_key
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings
from ovs_ros.vocabulary.yaml_io import load_class_names


@with_flags()
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
            help="'label': DIR/label with classes.txt, lines from 0. 'fine': DIR/fine with fine_names.txt, "
            "lines from 1; 0 and the name 'unknown' are left out. 'color': DIR/color, painted as colors.txt "
            "(R G B name a line) says; other colours are left out."
        ),
    ] = "label",
    distractors: Annotated[
        Path | None, typer.Option(help="More names for the vocabulary, one a line, that no label has.")
    ] = None,
    split_words: Annotated[
        Path | None,
        typer.Option(
            help="Names, one a line, held out of training: their mIoU is given apart, and they count as "
            "unseen in validation."
        ),
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="At most this many images, at even distances in the set.")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare-exhaustive", help="Decide each image among all words too, in turn.")
    ] = False,
    conformal: Annotated[
        float | None,
        typer.Option(
            metavar="ALPHA",
            help="Also form prediction sets: of 1 - ALPHA of the images, 1 - ALPHA of the positions get one "
            "with their true name. They are fitted to half of the images.",
        ),
    ] = None,
    models: Annotated[
        Path | None, typer.Option(help="Another folder with the model's files, as `ovs train` writes them.")
    ] = None,
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
    occur in the labels. Labels are line numbers of the class file from 0; 255 is left out.
    """
    with user_errors():
        dataset = load_labelled_set(folder, labels, classes)
        names = dataset.names
        held_out = frozenset() if split_words is None else _held_out(split_words, names)
        vocabulary = _with_distractors(names, distractors)
        if images is not None:
            dataset = dataset.spread(images)
        segmenter = load_segmenter(load, options, models=models, network_file=network_file)
        seen_names = segmenter.model.seen_names - {name_key(name) for name in held_out}
        segmenter = replace(segmenter, model=replace(segmenter.model, seen_names=seen_names))
        words = embed_words(segmenter, vocabulary)
        skipped = Skipped()
        sets = (
            None
            if conformal is None
            else evaluate_prediction_sets(segmenter, words, dataset, conformal, skipped)
        )
        agreement = Agreement(names, held_out)
        measures: list[Measure] = [agreement, SelectionReport(len(names)), CalibrationReport()]
        runs = [_Run(segmenter, segmenter.options, measures)]
        kept = SelectionRecall(len(names))
        if compare:
            runs.append(
                _Run(segmenter, replace(segmenter.options, select=False), [Agreement(names, held_out)])
            )
        for _, (image, truth) in read_each(range(len(dataset)), dataset.read, skipped, "Evaluating"):
            first, *others = (run.add(image, truth, words) for run in runs)
            for every in others:
                kept.add(np.where(every.labels == truth, truth, IGNORED), first.selected_ids)
        done = len(dataset) - len(skipped)
        results = _results(runs[0], done, len(vocabulary))
        rows = [row for measure in measures for row in measure.rows()]
        rows += [
            ("ms per image", f"{runs[0].ms:.1f}"),
            ("measured on", device_name(segmenter.model.device)),
            ("peak memory", f"{peak_memory_mb():.0f} MB"),
        ]
        if compare:
            slow = runs[1]
            speedup = slow.median_ms / runs[0].median_ms
            results["exhaustive"] = {
                **slow.measures[0].results(),
                "ms_per_image": round(slow.ms, 2),
                "speedup": round(speedup, 3),
                "kept": rounded(kept.recall),
            }
            rows += [(f"exhaustive: {name}", value) for name, value in slow.measures[0].rows()]
            rows += [
                ("exhaustive: ms per image", f"{slow.ms:.1f}"),
                ("exhaustive in selected, medians of the time", f"{speedup:.2f}"),
                ("selection recall, of what exhaustive gets right", f"{kept.recall:.4f}"),
            ]
        if sets is not None:
            results["conformal"] = sets
            rows += [(f"prediction sets: {key.replace('_', ' ')}", str(value)) for key, value in sets.items()]
        results["mistaken_for"] = {
            name: {other: rounded(share)} for name, (other, share) in _mistaken(agreement).items()
        }
        _print(agreement, rows)
        console.print(Text(f"{done} images, {len(vocabulary)} names, model {segmenter.model.name}"))
        if json_file:
            write_json(json_file, results)
        skipped.end()


class _Run:
    """One way to segment the images, with what is measured of it."""

    def __init__(self, segmenter: Segmenter, options: SegmenterOptions, measures: list[Measure]) -> None:
        self.segmenter = segmenter
        self.options = options
        self.measures = measures
        self._times_ms: list[float] = []

    def add(self, image: NDArray[np.uint8], truth: NDArray[np.uint8], words: WordEmbeddings) -> Segmentation:
        """Segment an image, and measure."""
        start = perf_counter()
        result = self.segmenter.segment(image, words, self.options)
        self._times_ms.append((perf_counter() - start) * 1e3)
        for measure in self.measures:
            measure.add(truth, result)
        return result

    @property
    def ms(self) -> float:
        """Mean milliseconds an image."""
        return float(np.mean(self._times_ms))

    @property
    def median_ms(self) -> float:
        """The median, which a busy moment does not move."""
        return float(np.median(self._times_ms))


def _results(run: _Run, images: int, names: int) -> dict[str, object]:
    first, *others = run.measures
    results: dict[str, object] = {
        **first.results(),
        "images": images,
        "ms_per_image": round(run.ms, 2),
        "model": run.segmenter.model.name,
    }
    for measure in others:
        results |= measure.results()
    return {**results, "names": names, "peak_memory_mb": peak_memory_mb()}


def _held_out(file: Path, names: Iterable[str]) -> frozenset[str]:
    """The class names that a file names.

    Raises:
        ValueError: it names none of them.
    """
    keys = {name_key(name) for name in load_class_names(file)}
    held_out = frozenset(name for name in names if name_key(name) in keys)
    if not held_out:
        raise ValueError(f"expected class names in {file}, got none of them; is it another set's?")
    return held_out


def _with_distractors(names: list[str], file: Path | None) -> Vocabulary:
    """The class names, and those names of a file that are no class, each once."""
    known = {name_key(name) for name in names}
    more = {name_key(name): name for name in (load_class_names(file) if file else ())}
    return Vocabulary.from_names([*names, *(name for key, name in more.items() if key not in known)])


def _mistaken(agreement: Agreement) -> dict[str, tuple[str, float]]:
    """Of each class with mistakes: what it was most often taken for, and what share of its pixels was."""
    others = [*agreement.names, "none of the classes"]
    pairs = zip(agreement.names, *agreement.matrix.mistaken, strict=True)
    return {name: (others[other], float(share)) for name, other, share in pairs if share > 0}


def _print(agreement: Agreement, rows: list[tuple[str, str]]) -> None:
    table, mistaken = Table("class", "IoU", "most often mistaken for"), _mistaken(agreement)
    pairs = zip(agreement.names, agreement.matrix.iou, strict=True)
    for name, value in sorted(pairs, key=lambda pair: -np.nan_to_num(pair[1], nan=-1)):
        other, share = mistaken.get(name, ("", 0.0))
        table.add_row(
            Text(name),
            "does not occur" if np.isnan(value) else f"{value:.3f}",
            Text(f"{share:.0%} {other}" if other else ""),
        )
    console.print(table)
    summary = Table("measure", "value")
    for name, value in rows:
        summary.add_row(Text(name), value)
    console.print(summary)
