"""`ovs temperature`: make confidences mean something, on labelled images."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from ovs_ros.cli.common import Skipped, embed_words, load_segmenter, print_table, read_each, write_json
from ovs_ros.cli.options import with_flags
from ovs_ros.encoders import embedded
from ovs_ros.evaluation.labelled_folder import IGNORED, LabelledSet, load_labelled_set
from ovs_ros.evaluation.temperature_scaling import Reliability, fit_temperature, model_digest
from ovs_ros.options import LoadOptions
from ovs_ros.segmenter import Segmenter
from ovs_ros.steps.decoder import decode
from ovs_ros.steps.grid import at_nodes
from ovs_ros.vocabulary.vocabulary import Vocabulary
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings

STRIDE = 2
"""Every second node of each axis is fitted to: neighbours say nearly the same."""


@with_flags()
def temperature(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR...", help="Each holds image/* and label/*.png; classes.txt lies there or above."
        ),
    ],
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

    Of each set the even images (the first, the third, …) are fitted to, every image with the same weight, and
    the others tell the expected calibration error (ECE) before and after. 'Before' is a temperature of 1: the
    logits as they were trained.
    """
    sets = {"/".join(folder.resolve().parts[-2:]): load_labelled_set(folder) for folder in folders}
    short = [name for name, dataset in sets.items() if len(dataset) < 2]
    if short:
        raise ValueError(f"expected at least 2 images in each set, one to fit to, got 1 in {short[0]}")
    fitted: dict[str, object] = {}
    rows = []
    skipped = Skipped()
    for model in names:
        segmenter = load_segmenter(LoadOptions(model=model, negatives="off"), models=models)
        segmenter = replace(segmenter, model=replace(segmenter.model, temperature=1.0))
        words = {
            name: embed_words(segmenter, Vocabulary.from_names(dataset.names))
            for name, dataset in sets.items()
        }
        found = _fit(segmenter, sets, words, skipped)
        errors = {
            name: _errors(segmenter, dataset, words[name], found, skipped) for name, dataset in sets.items()
        }
        fitted[model] = {
            "temperature": round(found, 4),
            "images": {name: len(dataset) for name, dataset in sets.items()},
            "split": "fitted to the even images, errors from the odd ones",
            "ece": {name: {"before": before, "after": after} for name, (before, after) in errors.items()},
            "model": model_digest(models),
        }
        rows += [
            [model, f"{found:.4f}", name, f"{before:.4f}", f"{after:.4f}"]
            for name, (before, after) in errors.items()
        ]
    print_table(["model", "temperature", "set", "ECE before", "ECE after"], rows)
    if output:
        kept = json.loads(output.read_text(encoding="utf-8")) if output.is_file() else {}
        write_json(output, {**kept, **fitted})
    skipped.end()


def _fit(
    segmenter: Segmenter, sets: dict[str, LabelledSet], words: dict[str, WordEmbeddings], skipped: Skipped
) -> float:
    logits: list[NDArray[np.float32]] = []
    right: list[NDArray[np.bool_]] = []
    for name, dataset in sets.items():
        even = range(0, len(dataset), 2)
        for _, (image, truth) in read_each(even, dataset.read, skipped, f"Fitting to {name}"):
            scored = segmenter.score(image, words[name])
            true = at_nodes(truth, scored.features, scored.logits.shape[:2])[::STRIDE, ::STRIDE]
            counted = true != IGNORED
            fitted = scored.logits[::STRIDE, ::STRIDE][counted]  # (n, M)
            logits.append(fitted)
            right.append(scored.selection.classes[fitted.argmax(axis=1)] == true[counted])
    return fit_temperature(logits, right)


def _errors(
    segmenter: Segmenter, dataset: LabelledSet, words: WordEmbeddings, found: float, skipped: Skipped
) -> tuple[float, float]:
    """ECE at a temperature of 1 and at the one found, over the pixels of the odd images."""
    before, after = Reliability(), Reliability()
    for _, (image, truth) in read_each(range(1, len(dataset), 2), dataset.read, skipped, "Measuring"):
        scored = segmenter.score(image, words)
        counted = truth != IGNORED
        for reliability, factor in ((before, 1.0), (after, 1.0 / found)):
            indices, confidence = decode(scored.logits * np.float32(factor), scored.features, truth.shape)
            right = scored.selection.classes[indices] == truth
            reliability.add(confidence[counted], right[counted])
    return round(before.error(), 4), round(after.error(), 4)
