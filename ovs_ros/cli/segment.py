"""`ovs segment`: name the pixels of images or of a video."""

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from time import time
from typing import Annotated

import cv2
import numpy as np
import typer
from numpy.typing import NDArray
from rich.text import Text

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
    say,
    write_json,
)
from ovs_ros.cli.options import with_flags
from ovs_ros.geometry.flow import DownscaledFrame
from ovs_ros.options import LoadOptions, NodeOptions, SegmenterOptions, declared
from ovs_ros.render import display_colors, picture
from ovs_ros.runtime.images import IMAGE_SUFFIXES, list_images, output_names, read_image, write_image
from ovs_ros.segmenter import Segmenter
from ovs_ros.steps.segmentation import Segmentation
from ovs_ros.steps.temporal_filter import flow_filter
from ovs_ros.vocabulary.linter import lint, note_knowledge
from ovs_ros.vocabulary.vocabulary import Vocabulary
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings

_JSON_EVERY_S = 10.0
"""How often the JSON is written while images are done."""


@with_flags(
    leave_out=declared(NodeOptions).keys() - {"temporal_filter", "temporal_filter_time", "max_megapixels"}
)
def segment(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="An image, a folder of images, or a video.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the results; made when missing.")
    ],
    words: WordsOption = None,
    vocabulary: VocabularyOption = None,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="How much colours cover the image.")] = 0.5,
    rate: Annotated[
        float,
        typer.Option(
            min=0.1, help="Frames a second, for the temporal filter of a folder; a video tells its own."
        ),
    ] = 15.0,
    json_file: JsonOption = None,
    *,
    of_stream: NodeOptions,
    load: LoadOptions,
    options: SegmenterOptions,
) -> None:
    """Write for each image its ids (NAME_labels.png) and a picture with a legend (NAME_overlay.png).

    A video's frames are numbered from 0. The JSON has, for each image, its categories with ids and shares.
    '--temporal-filter flow' takes the images of a folder as frames of one stream.
    """
    asked = asked_vocabulary(words, vocabulary)
    if of_stream.temporal_filter == "pose":
        raise ValueError(
            "expected --temporal-filter off or flow, got pose, which needs depth and poses: the node and "
            "`ovs flicker` take them"
        )
    flow = of_stream.temporal_filter == "flow"
    stream = flow_filter(of_stream.temporal_filter_time) if flow else None
    if source.is_dir() and output.resolve() == source.resolve():
        raise ValueError(
            f"expected another folder for the results than that of the images, got {output}; the "
            "next run would take the results for images"
        )
    skipped = Skipped()
    images, own_rate = _open_source(source, skipped, of_stream.max_megapixels)
    segmenter = load_segmenter(load, options)
    model = segmenter.model
    for finding in lint(asked, reads=model.text_encoder.reads) + note_knowledge(asked, model.knowledge):
        about = f"{', '.join(finding.names)}: " if finding.is_note else ""
        say(f"Note: {about}{finding.message}")
    embedded = embed_words(segmenter, asked)
    if embedded.generic:
        say(f"Negative words, whose pixels are unknown: {', '.join(embedded.generic)}")
    output.mkdir(parents=True, exist_ok=True)
    reports: list[dict[str, object]] = []
    written = time()
    pixels = np.zeros(65536)
    for name, image, result in _segmented(images, segmenter, embedded):
        if stream is not None:
            result = stream.apply(result, len(reports) / (own_rate or rate), DownscaledFrame.of(image))
        write_image(output / f"{name}_labels.png", result.labels)
        write_image(output / f"{name}_overlay.png", picture(image, result, alpha))
        reports.append(_report(name, result))
        pixels[result.selected_ids] += result.shares
        if time() - written > _JSON_EVERY_S:
            written = time()
            write_json(json_file, {"model": segmenter.model.name, "images": reports})
    if reports:
        _print(asked, pixels / len(reports))
    say(f"{len(reports)} image(s) in {output}")
    write_json(json_file, {"model": segmenter.model.name, "images": reports})
    skipped.end()


def _segmented(
    images: Iterable[tuple[str, NDArray[np.uint8]]], segmenter: Segmenter, words: WordEmbeddings
) -> Iterator[tuple[str, NDArray[np.uint8], Segmentation]]:
    """Names and images with their results, as many at once as the model gains from."""
    left = iter(images)
    while batch := list(islice(left, segmenter.model.most_at_once)):
        results = segmenter.segment_batch([image for _, image in batch], words)
        for (name, image), result in zip(batch, results, strict=True):
            yield name, image, result


def _open_source(
    source: Path, skipped: Skipped, max_megapixels: float
) -> tuple[Iterable[tuple[str, NDArray[np.uint8]]], float]:
    """Names and RGB images behind a progress bar, and how many a second; 0 where the source does not tell.

    Of a folder, images that cannot be read are skipped.
    """
    if source.is_dir():
        images = list_images(source)
        names = dict(zip(images, output_names(images), strict=True))
        read = read_each(images, partial(read_image, max_megapixels=max_megapixels), skipped, "Segmenting")
        return ((names[path], image) for path, image in read), 0
    if not source.exists():
        raise FileNotFoundError(f"expected an image, a folder or a video at {source}, and there is nothing")
    if not source.is_file():
        raise ValueError(f"expected an image, a folder or a video, got a pipe or a device at {source}")
    if source.suffix.lower() in IMAGE_SUFFIXES:
        return [(source.stem, read_image(source, max_megapixels))], 0
    video = cv2.VideoCapture(str(source))
    return _frames(video, source), video.get(cv2.CAP_PROP_FPS)


def _frames(video: cv2.VideoCapture, source: Path) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    count = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    number = 0
    with progress_bar() as bar:
        task = bar.add_task("Segmenting", total=count if count > 0 else None)
        while (read := video.read())[0]:
            yield f"{source.stem}_{number:06d}", cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB)
            number += 1
            bar.advance(task)
    if number == 0:
        raise ValueError(
            f"expected an image or a video in {source}, got something that cannot be read as one"
        )


def _report(name: str, result: Segmentation) -> dict[str, object]:
    categories = [
        {
            "id": int(result.selected_ids[i]),
            "name": result.selected_names[i],
            "score": round(float(result.scores[i]), 4),
            "share": round(float(result.shares[i]), 4),
        }
        for i in np.argsort(-result.shares, kind="stable")
    ]
    return {
        "name": name,
        "unknown_id": result.unknown_id,
        "unknown_share": round(result.unknown_share, 4),
        "categories": categories,
        "stages_ms": {stage: round(ms, 3) for stage, ms in result.stages_ms.items()},
    }


def _print(vocabulary: Vocabulary, shares: NDArray[np.float64]) -> None:
    found = [c.name for c in vocabulary.categories if shares[c.id] > 0]
    colors = display_colors(vocabulary.names, found)
    rows: list[list[str | Text]] = [
        [Text("■■", f"rgb({','.join(map(str, colors[c.name]))})"), c.name, str(c.id), f"{shares[c.id]:.1%}"]
        for c in sorted(vocabulary.categories, key=lambda category: -shares[category.id])
        if shares[c.id] > 0
    ]
    if (unknown := 1 - shares.sum()) > 1e-6:
        rows.append(["", Text("unknown", "italic"), str(vocabulary.unknown_id), f"{unknown:.1%}"])
    print_table(["", "name", "id", "share of the pixels"], rows)
