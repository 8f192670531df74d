"""`ovs adapt`: adapt a vocabulary to a site, from frames recorded there."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from ovs_ros.cli.common import (
    JsonOption,
    Skipped,
    VocabularyOption,
    WordsOption,
    asked_vocabulary,
    embed_words,
    load_segmenter,
    print_table,
    progress_bar,
    read_each,
    rounded,
    say,
    write_json,
)
from ovs_ros.cli.options import with_flags
from ovs_ros.encoders.embedded import PRESETS
from ovs_ros.evaluation.labelled_folder import IGNORED, LabelledSet, load_labelled_set
from ovs_ros.evaluation.metrics import ConfusionMatrix
from ovs_ros.evaluation.site_templates import TemplateEntropies
from ovs_ros.evaluation.site_thresholds import CategoryConfidences
from ovs_ros.evaluation.temperature_scaling import Reliability
from ovs_ros.options import LoadOptions, SegmenterOptions
from ovs_ros.runtime.images import list_images, read_image
from ovs_ros.segmenter import Segmenter
from ovs_ros.steps.grid import crop
from ovs_ros.steps.segmentation import Segmentation
from ovs_ros.vocabulary.prompts import embed
from ovs_ros.vocabulary.templates import POOL
from ovs_ros.vocabulary.vocabulary import Category, CategorySpec, Vocabulary, name_key
from ovs_ros.vocabulary.yaml_io import dump_vocabulary


@with_flags()
def adapt(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="Frames of the site, 50 to 200; or image/* and, for figures, label/*.png."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The vocabulary that is written, YAML.")],
    words: WordsOption = None,
    vocabulary: VocabularyOption = None,
    templates: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="How many prompt templates a category gets at most; 0: keep the model's. Default: 8, and 0 "
            "for the embedded model, which was trained with its own.",
        ),
    ] = None,
    precision: Annotated[
        float,
        typer.Option(min=0, max=1, help="The mean confidence that a category's pixels must reach; 0: off."),
    ] = 0.7,
    most_unknown: Annotated[
        float, typer.Option(min=0, max=1, help="The share of a category's pixels that may become unknown.")
    ] = 0.5,
    json_file: JsonOption = None,
    *,
    load: LoadOptions,
    options: SegmenterOptions,
) -> None:
    """Choose prompts and thresholds for each category from unlabelled frames, and write them as a vocabulary.

    Categories keep the prompts and thresholds that the given vocabulary already has for them. The node loads
    the result with its parameter 'vocabulary'. Where DIR has labels and a class file, a table shows what was
    gained and lost; classes that the vocabulary lacks do not count.
    """
    dataset = load_labelled_set(folder) if (folder / "label").is_dir() else None
    images = list_images(folder / "image" if (folder / "image").is_dir() else folder)
    skipped = Skipped()
    if dataset is not None and words is None and vocabulary is None:
        start = Vocabulary.from_names(dataset.names)
    else:
        start = asked_vocabulary(words, vocabulary)
    segmenter = load_segmenter(load, options)
    specs = [CategorySpec(c.name, c.prompts, synonyms=c.synonyms) for c in start.categories]
    if templates is None:
        templates = 0 if load.model in PRESETS else 8
    if templates:
        specs = _choose_templates(segmenter, start, images, templates, skipped)
    chosen = Vocabulary.from_specs(specs, start.negatives)
    limits = _thresholds(segmenter, chosen, images, precision, most_unknown, skipped)
    adapted = Vocabulary.from_specs(
        [
            replace(spec, threshold=limit if own.threshold is None else own.threshold)
            for spec, own, limit in zip(specs, start.categories, limits, strict=True)
        ],
        start.negatives,
    )
    dump_vocabulary(adapted, output)
    print_table(
        ["category", "prompts", "threshold"],
        [
            [category.name, _shown(category, own), _number(category.threshold)]
            for category, own in zip(adapted.categories, start.categories, strict=True)
        ],
    )
    last = "templates and thresholds" if templates else "thresholds"
    steps = {"before": start, **({"templates": chosen} if templates else {}), last: adapted}
    figures = {
        name: _figures(segmenter, step, dataset, name, skipped) for name, step in steps.items() if dataset
    }
    if figures:
        heads = ["", "mIoU", "right of named pixels", "ECE", "unknown"]
        print_table(heads, [[name, *map(_number, values.values())] for name, values in figures.items()])
    done = len(images) - len(skipped)
    say(f"{done} frames; the vocabulary is in {output}")
    write_json(json_file, {"images": done, "figures": figures})
    skipped.end()


def _choose_templates(
    segmenter: Segmenter, vocabulary: Vocabulary, images: list[Path], most: int, skipped: Skipped
) -> list[CategorySpec]:
    """Categories with the templates of lowest entropy as prompts; none where no frame showed the category."""
    classifiers = []
    with progress_bar() as bar:
        for template in bar.track(POOL, description="Embedding templates"):
            specs = [
                CategorySpec(c.name, c.prompts or (template,), synonyms=c.synonyms)
                for c in vocabulary.categories
            ]
            alone = Vocabulary.from_specs(specs, vocabulary.negatives)
            classifiers.append(embed(alone, segmenter.model.text_encoder, segmenter.cache).embeddings)
    model = segmenter.model
    scale = model.image_encoder.logit_scale / model.temperature
    entropies = TemplateEntropies(np.stack(classifiers), len(vocabulary), scale)
    for _, image in read_each(images, read_image, skipped, "Choosing templates"):
        features = model.encode(image)
        patches = crop(features.patch_tokens, features.valid)  # (h, w, D)
        entropies.add(patches.reshape(-1, patches.shape[2]))
    return [
        CategorySpec(
            category.name,
            category.prompts or tuple(POOL[place] for place in places),
            synonyms=category.synonyms,
        )
        for category, places in zip(vocabulary.categories, entropies.choose(most), strict=True)
    ]


def _thresholds(
    segmenter: Segmenter,
    vocabulary: Vocabulary,
    images: list[Path],
    precision: float,
    most_unknown: float,
    skipped: Skipped,
) -> list[float | None]:
    words = embed_words(segmenter, vocabulary)
    confidences = CategoryConfidences(len(vocabulary))
    for _, image in read_each(images, read_image, skipped, "Choosing thresholds"):
        result = segmenter.segment(image, words)
        # Ids of a first version count from 0; unknown is beyond them.
        confidences.add(result.labels, result.confidence)
    return confidences.thresholds(precision, most_unknown)


def _figures(
    segmenter: Segmenter, vocabulary: Vocabulary, dataset: LabelledSet, step: str, skipped: Skipped
) -> dict[str, float | None]:
    words = embed_words(segmenter, vocabulary)
    ids = _ids(vocabulary, dataset)
    matrix, reliability = ConfusionMatrix(len(vocabulary)), Reliability()
    for _, (image, classes) in read_each(range(len(dataset)), dataset.read, skipped, f"Measuring: {step}"):
        result: Segmentation = segmenter.segment(image, words)
        truth = ids[classes]
        matrix.add(truth, result.labels)
        named = (truth >= 0) & (result.labels != result.unknown_id)
        reliability.add(result.confidence[named], result.labels[named] == truth[named])
    unknown = matrix.counts[:, -1].sum() / max(1, matrix.counts.sum())
    return {
        "miou": rounded(matrix.mean_iou),
        "precision": rounded(reliability.accuracy),
        "ece": rounded(reliability.error()),
        "unknown_share": rounded(float(unknown)),
    }


def _ids(vocabulary: Vocabulary, dataset: LabelledSet) -> NDArray[np.int32]:
    """(256,) the id of each value that the set's labels have; -1 where the vocabulary has no such name."""
    known: dict[str, int] = {name_key(c.name): c.id for c in vocabulary.categories}
    ids = np.full(IGNORED + 1, -1, np.int32)
    ids[: len(dataset.names)] = [known.get(name_key(name), -1) for name in dataset.names]
    if (ids < 0).all():
        raise ValueError("expected names in the vocabulary that the class file has too, got none of them")
    return ids


def _shown(category: Category, own: Category) -> str:
    if own.prompts:
        return "its own"
    return ", ".join(category.prompts[:3]) + (", …" if len(category.prompts) > 3 else "")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
