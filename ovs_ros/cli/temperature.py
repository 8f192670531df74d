"""`ovs temperature`: make confidences mean something, on labelled images."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from ovs_ros.cli.common import Skipped, embed_words, load_segmenter, print_table, read_each, write_json
from ovs_ros.cli.known_sets import ClassWords, held_out, words_of
from ovs_ros.cli.options import with_flags
from ovs_ros.encoders import embedded
from ovs_ros.evaluation.labelled_folder import IGNORED, LabelledSet, load_labelled_set
from ovs_ros.evaluation.temperature_scaling import Reliability, fit_temperature, model_digest
from ovs_ros.options import LoadOptions
from ovs_ros.runtime.checksums import update_checksum
from ovs_ros.runtime.files import read_file
from ovs_ros.segmenter import Segmenter
from ovs_ros.steps.decoder import decode
from ovs_ros.steps.grid import at_nodes
from ovs_ros.training.label_spaces import known_space
from ovs_ros.vocabulary.vocabulary import Vocabulary
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings

STRIDE = 2
"""Every second node of each axis is fitted to: neighbours say nearly the same."""


@dataclass(frozen=True, eq=False)
class _Set:
    """A labelled set.

    Attributes:
        images: all that count.
        asked: the words in place of its classes.
        fitted: to its even images, so that the odd ones are measured; else nothing is, and all are measured.
    """

    images: LabelledSet
    asked: ClassWords
    fitted: bool = True


@with_flags()
def temperature(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR...", help="Each holds image/* and label/*.png; classes.txt lies there or above."
        ),
    ],
    only_held_out: Annotated[
        bool,
        typer.Option(
            "--held-out",
            help="Each DIR is a split of a set that `ovs train embedded` knows: take only the images that it "
            "does not train on.",
        ),
    ] = False,
    apart: Annotated[
        list[Path],
        typer.Option(
            metavar="DIR",
            help="A set that the model never saw: nothing is fitted to it, and all of its images are "
            "measured. May be given several times.",
        ),
    ] = [],  # noqa: B006
    names: Annotated[
        list[str], typer.Option("--model", help="Which models to fit; may be given several times.")
    ] = [*embedded.PRESETS],  # noqa: B006  # typer wants a list and never changes it
    models: Annotated[
        Path, typer.Option(help="The folder with the model's files, as `ovs train` writes them.")
    ] = embedded.MODELS,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Keep the result in this file: calibration.json in the model's folder is what counts.",
        ),
    ] = None,
) -> None:
    """Fit the temperature that calibrates confidences, one for each model, on all sets together.

    Of each set the even images (the first, the third, …) are fitted to, every set with the same weight, and
    the others tell the expected calibration error (ECE) before and after. 'Before' is a temperature of 1: the
    logits as they were trained. A set that `ovs train embedded` knows is asked for the words of its unions.
    """
    sets: dict[str, _Set] = {}
    for folder in (*folders, *apart):
        images = load_labelled_set(folder)
        space = known_space(images.names)
        if only_held_out and folder not in apart:
            images, space = held_out(images, folder)
        name = "/".join(folder.resolve().parts[-2:])
        sets[name] = _Set(images, words_of(images.names, space), folder not in apart)
    short = [name for name, one in sets.items() if one.fitted and len(one.images) < 2]
    if short:
        raise ValueError(f"expected at least 2 images in each set, one to fit to, got 1 in {short[0]}")
    results: dict[str, object] = {}
    rows = []
    skipped = Skipped()
    for model in names:
        segmenter = load_segmenter(LoadOptions(model=model, negatives="off"), models=models)
        segmenter = replace(segmenter, model=replace(segmenter.model, temperature=1.0))
        words = {
            name: embed_words(segmenter, Vocabulary.from_names(one.asked.words)) for name, one in sets.items()
        }
        found = _fit(segmenter, sets, words, skipped)
        errors = {name: _errors(segmenter, one, words[name], found, skipped) for name, one in sets.items()}
        results[model] = {
            "temperature": round(found, 4),
            "images": {name: len(one.images) for name, one in sets.items()},
            "split": "fitted to the even images, errors from the odd ones",
            "apart": [name for name, one in sets.items() if not one.fitted],
            "ece": {name: {"before": before, "after": after} for name, (before, after) in errors.items()},
            "model": model_digest(models),
        }
        rows += [
            [
                model,
                f"{found:.4f}",
                name if sets[name].fitted else f"{name}, apart",
                str(len(sets[name].images)),
                f"{before:.4f}",
                f"{after:.4f}",
            ]
            for name, (before, after) in errors.items()
        ]
    print_table(["model", "temperature", "set", "images", "ECE before", "ECE after"], rows)
    if output:
        kept = json.loads(read_file(output)) if output.is_file() else {}
        write_json(output, {**kept, **results})
        update_checksum(output)
    skipped.end()


def _fit(
    segmenter: Segmenter, sets: dict[str, _Set], words: dict[str, WordEmbeddings], skipped: Skipped
) -> float:
    logits: list[NDArray[np.float32]] = []
    right: list[NDArray[np.bool_]] = []
    weights: list[float] = []
    for name, one in sets.items():
        if not one.fitted:
            continue
        before = len(logits)
        even = range(0, len(one.images), 2)
        for _, (image, truth) in read_each(even, one.images.read, skipped, f"Fitting to {name}"):
            scored = segmenter.score(image, words[name])
            true = at_nodes(truth, scored.features, scored.logits.shape[:2])[::STRIDE, ::STRIDE]
            counted = true != IGNORED
            if not counted.any():
                continue
            fitted = scored.logits[::STRIDE, ::STRIDE][counted]  # (n, M)
            logits.append(fitted)
            best = scored.selection.classes[fitted.argmax(axis=1)]
            right.append(one.asked.classes[best] == true[counted])
        count = len(logits) - before
        weights += [1 / count] * count
    return fit_temperature(logits, right, weights)


def _errors(
    segmenter: Segmenter, one: _Set, words: WordEmbeddings, found: float, skipped: Skipped
) -> tuple[float, float]:
    """ECE at a temperature of 1 and at the one found, over the images that are not fitted to."""
    before, after = Reliability(), Reliability()
    measured = range(1, len(one.images), 2) if one.fitted else range(len(one.images))
    for _, (image, truth) in read_each(measured, one.images.read, skipped, "Measuring"):
        scored = segmenter.score(image, words)
        counted = truth != IGNORED
        for reliability, factor in ((before, 1.0), (after, 1.0 / found)):
            indices, confidence = decode(scored.logits * np.float32(factor), scored.features, truth.shape)
            right = one.asked.classes[scored.selection.classes[indices]] == truth
            reliability.add(confidence[counted], right[counted])
    return round(before.error(), 4), round(after.error(), 4)
