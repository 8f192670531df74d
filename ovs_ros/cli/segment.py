"""`ovs segment`: name the pixels of images or of a video."""

import re
from collections.abc import Iterator
from pathlib import Path
from time import time
from typing import Annotated

import cv2
import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from ovs_ros.cli.common import (
    JsonOption,
    Skipped,
    VocabularyOption,
    WordsOption,
    console,
    embed_words,
    load_segmenter,
    progress_bar,
    user_errors,
    write_json,
)
from ovs_ros.cli.options import with_flags
from ovs_ros.geometry.flow import DownscaledFrame
from ovs_ros.options import LoadOptions, NodeOptions, SegmenterOptions, declared
from ovs_ros.render import overlay, with_legend
from ovs_ros.runtime.images import IMAGE_SUFFIXES, list_images, output_names, read_image, write_image
from ovs_ros.steps.segmentation import Segmentation
from ovs_ros.steps.temporal_filter import flow_filter
from ovs_ros.vocabulary.linter import lint
from ovs_ros.vocabulary.vocabulary import Vocabulary
from ovs_ros.vocabulary.yaml_io import load_vocabulary

_JSON_EVERY_S = 10.0
"""How often the JSON is written while images are done."""


@with_flags()
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
    temporal_filter: Annotated[
        str, typer.Option(help="'flow': the images are frames of one stream, filter their names; or 'off'.")
    ] = NodeOptions.temporal_filter,
    temporal_filter_time: Annotated[
        float, typer.Option(help=declared(NodeOptions)["temporal_filter_time"].text)
    ] = NodeOptions.temporal_filter_time,
    rate: Annotated[
        float,
        typer.Option(
            min=0.1, help="Frames a second, for the temporal filter of a folder; a video tells its own."
        ),
    ] = 15.0,
    json_file: JsonOption = None,
    *,
    load: LoadOptions,
    options: SegmenterOptions,
) -> None:
    """Write for each image its ids (NAME_labels.png) and a picture with a legend (NAME_overlay.png).

    A video's frames are numbered from 0. The JSON has, for each image, its categories with ids and shares.
    """
    with user_errors():
        asked = asked_vocabulary(words, vocabulary)
        over_time = NodeOptions(
            temporal_filter=temporal_filter,  # type: ignore[arg-type]  # checked there
            temporal_filter_time=temporal_filter_time,
        )
        if over_time.temporal_filter == "pose":
            raise ValueError(
                "expected --temporal-filter off or flow, got pose, which needs depth and poses: the node and "
                "`ovs flicker` take them"
            )
        flow = over_time.temporal_filter == "flow"
        stream = flow_filter(over_time.temporal_filter_time) if flow else None
        total = _count(source)
        rate = _video_rate(source) or rate
        if source.is_dir() and output.resolve() == source.resolve():
            raise ValueError(
                f"expected another folder for the results than that of the images, got {output}; the "
                "next run would take the results for images"
            )
        segmenter = load_segmenter(load, options)
        for finding in lint(asked, reads=segmenter.model.text_encoder.reads):
            console.print(Text(f"Note: {finding.message}"))
        embedded = embed_words(segmenter, asked)
        output.mkdir(parents=True, exist_ok=True)
        skipped = Skipped()
        reports: list[dict[str, object]] = []
        written = time()
        pixels = np.zeros(65536)
        with progress_bar() as bar:
            for name, image in bar.track(_images(source, skipped), total=total, description="Segmenting"):
                result = segmenter.segment(image, embedded)
                if stream is not None:
                    result = stream.apply(result, len(reports) / rate, DownscaledFrame.of(image))
                write_image(output / f"{name}_labels.png", result.labels)
                picture = overlay(image, result.labels, asked, alpha)
                write_image(output / f"{name}_overlay.png", with_legend(picture, result))
                reports.append(_report(name, result))
                pixels[result.selected_ids] += result.shares
                if json_file and time() - written > _JSON_EVERY_S:
                    written = time()
                    write_json(json_file, {"model": segmenter.model.name, "images": reports})
        if reports:
            console.print(_table(asked, pixels / len(reports)))
        console.print(Text(f"{len(reports)} image(s) in {output}"))
        if json_file:
            write_json(json_file, {"model": segmenter.model.name, "images": reports})
        skipped.end()


def asked_vocabulary(words: str | None, vocabulary: str | None) -> Vocabulary:
    """What --words or --vocabulary ask for.

    Raises:
        ValueError: both or neither are given, or the words cannot be.
    """
    if (words is None) == (vocabulary is None):
        raise ValueError(
            "expected either --words or --vocabulary, got " + ("neither" if words is None else "both")
        )
    if vocabulary is not None:
        return load_vocabulary(vocabulary)
    names = re.split(r"[,;，；、|]|\s\.\s", words or "")
    return Vocabulary.from_names([name for name in names if name.strip()])


def _count(source: Path) -> int | None:
    """How many images there are to do; None where a video does not tell."""
    if source.is_dir():
        return len(list_images(source))
    if not source.exists():
        raise FileNotFoundError(f"expected an image, a folder or a video at {source}, and there is nothing")
    if source.suffix.lower() in IMAGE_SUFFIXES:
        return 1
    video = cv2.VideoCapture(str(source))
    frames = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    video.release()
    return frames if frames > 0 else None


def _video_rate(source: Path) -> float | None:
    """Frames a second; None where the source is no video or does not tell."""
    if source.is_dir() or source.suffix.lower() in IMAGE_SUFFIXES:
        return None
    video = cv2.VideoCapture(str(source))
    rate = float(video.get(cv2.CAP_PROP_FPS))
    video.release()
    return rate if rate > 0 else None


def _images(source: Path, skipped: Skipped) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Names and RGB images. Of a folder, images that cannot be read are skipped."""
    if source.is_dir():
        images = list_images(source)
        for path, name in zip(images, output_names(images), strict=True):
            try:
                image = read_image(path)
            except (ValueError, OSError) as error:
                skipped.add(error)
            else:
                yield name, image
        return
    if source.suffix.lower() in IMAGE_SUFFIXES:
        yield source.stem, read_image(source)
        return
    video = cv2.VideoCapture(str(source))
    number = 0
    while True:
        read, frame = video.read()
        if not read:
            break
        yield f"{source.stem}_{number:06d}", cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        number += 1
    video.release()
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


def _table(vocabulary: Vocabulary, shares: NDArray[np.float64]) -> Table:
    table = Table("", "name", "id", "share of the pixels")
    for category in sorted(vocabulary.categories, key=lambda category: -shares[category.id]):
        if shares[category.id] > 0:
            swatch = Text("■■", style="rgb({},{},{})".format(*category.color))
            table.add_row(swatch, Text(category.name), str(category.id), f"{shares[category.id]:.1%}")
    unknown = 1 - shares.sum()
    if unknown > 1e-6:
        table.add_row("", Text("unknown", style="italic"), str(vocabulary.unknown_id), f"{unknown:.1%}")
    return table
