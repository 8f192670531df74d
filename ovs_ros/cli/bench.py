"""`ovs bench`: how long a frame takes, and what the size of the vocabulary has to do with it."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import cv2
import numpy as np
import typer
from numpy.typing import NDArray
from rich.progress import track
from rich.table import Table
from rich.text import Text

from ovs_ros.cli.bench_words import ADJECTIVES, NOUNS
from ovs_ros.cli.common import (
    JsonOption,
    console,
    embed_words,
    load_segmenter,
    user_errors,
    write_json,
)
from ovs_ros.cli.options import with_flags
from ovs_ros.encoders.features import ImageEncoder
from ovs_ros.options import LoadOptions, SegmenterOptions
from ovs_ros.runtime.processor import device_name
from ovs_ros.segmenter import Segmenter
from ovs_ros.vocabulary.vocabulary import Vocabulary
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings

SIZES = (20, 150, 847, 5000, 20000)
HEIGHT, WIDTH = 480, 640
_WARM_UP = 3


@with_flags(leave_out=["select"])
def bench(
    frames: Annotated[
        int, typer.Option(min=20, help="Frames timed for each size; medians are reported.")
    ] = 60,
    exhaustive: Annotated[
        bool, typer.Option("--exhaustive", help="Decide among all words in every frame: no selection.")
    ] = False,
    batch: Annotated[
        int,
        typer.Option(min=0, help="Time the network alone over this many images at once too; torch only."),
    ] = 0,
    models: Annotated[
        Path | None, typer.Option(help="Another folder with the model's files, as `ovs train` writes them.")
    ] = None,
    json_file: JsonOption = None,
    *,
    load: LoadOptions,
    options: SegmenterOptions,
) -> None:
    """Time one 640x480 frame for vocabularies of 20 to 20,000 names, and the image encoder alone.

    All are timed in turn, frame by frame, so that a machine that slows down slows all of them alike.
    """
    with user_errors():
        segmenter = load_segmenter(load, replace(options, select=not exhaustive), models=models)
        if batch:
            _timed(segmenter.model.image_encoder)  # An error must come before minutes of timing.
        vocabularies = compose_vocabularies(segmenter, SIZES)
        encoder_ms, frame_ms, stages_ms, p95_ms = measure(segmenter, vocabularies, draw_scene(), frames)
        device = device_name(segmenter.model.device)
        results = {
            "encoder_ms": encoder_ms,
            "frame_ms": frame_ms,
            "stages_ms": stages_ms,
            "p95_ms": p95_ms,
            "model": segmenter.model.name,
            "device": device,
        }
        print_times(encoder_ms, frame_ms, stages_ms, p95_ms, device)
        if batch:
            results["batch_ms"] = measure_batch(segmenter.model.image_encoder, batch, frames)
            console.print(Text(f"Network over {batch} images at once: {results['batch_ms']:.1f} ms"))
        console.print(
            Text(
                f"Model {results['model']} on {device}; medians of {frames} frames, "
                f"{'all words' if exhaustive else 'selected words'}. The first {len(NOUNS)} names went "
                "through the text encoder; longer lists add adjectives, mixed into the nouns' embeddings "
                "with some noise."
            )
        )
        if json_file:
            write_json(json_file, results)


def compose_vocabularies(segmenter: Segmenter, sizes: tuple[int, ...]) -> dict[int, WordEmbeddings]:
    """Vocabularies of everyday names: nouns first, then each adjective with each noun.

    The text encoder embeds the single words alone. It would take minutes for all compositions, and a frame's
    time does not depend on it: a composition gets the mean of its noun and half its adjective, with noise.
    """
    words = Vocabulary.from_names((*NOUNS, *(f"{word} thing" for word in ADJECTIVES)))
    singles = embed_words(segmenter, words)  # With a bar: 80 templates of each may take minutes on a CPU.
    nouns, adjectives = np.split(singles.embeddings, [len(NOUNS)])  # (n, D), (a, D)
    dim = nouns.shape[1]
    noise = np.random.default_rng(0).standard_normal((len(ADJECTIVES), len(NOUNS), dim), np.float32)
    composed = nouns + 0.5 * adjectives[:, None] + 0.3 / np.sqrt(dim) * noise  # (a, n, D)
    embeddings = np.concatenate((nouns, composed.reshape(-1, dim))).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    prompts = None
    if singles.prompts is not None:  # The mean in place of each prompt: the frame's time is the same.
        apart = (len(embeddings), *singles.prompts.shape[1:])
        prompts = np.broadcast_to(embeddings.astype(np.float16)[:, None], apart)
    names = [*NOUNS, *(f"{adjective} {noun}" for adjective, noun in product(ADJECTIVES, NOUNS))]
    return {
        size: WordEmbeddings(
            Vocabulary.from_names(names[:size]),
            embeddings[:size],
            prompts=None if prompts is None else prompts[:size],
        )
        for size in sizes
    }


def draw_scene() -> NDArray[np.uint8]:
    """A room with things in it, drawn: (480, 640, 3) uint8 RGB, the same each time."""
    shade = np.linspace(0.75, 1.0, HEIGHT, dtype=np.float32)[:, None, None]
    scene = (
        np.broadcast_to(np.array((205, 195, 180), np.float32) * shade, (HEIGHT, WIDTH, 3))
        .astype(np.uint8)
        .copy()
    )
    cv2.rectangle(scene, (0, 330), (WIDTH, HEIGHT), (120, 85, 60), cv2.FILLED)
    cv2.rectangle(scene, (60, 60), (210, 200), (150, 190, 235), cv2.FILLED)
    cv2.rectangle(scene, (60, 60), (210, 200), (250, 250, 250), 6)
    cv2.rectangle(scene, (470, 80), (580, 350), (90, 60, 40), cv2.FILLED)
    cv2.rectangle(scene, (230, 270), (440, 300), (140, 100, 60), cv2.FILLED)
    for left in (240, 420):
        cv2.rectangle(scene, (left, 300), (left + 12, 430), (110, 75, 45), cv2.FILLED)
    cv2.circle(scene, (300, 245), 25, (200, 40, 40), cv2.FILLED)
    cv2.ellipse(scene, (380, 262), (40, 10), 0, 0, 360, (235, 235, 235), cv2.FILLED)
    cv2.rectangle(scene, (70, 340), (190, 440), (50, 70, 120), cv2.FILLED)
    cv2.circle(scene, (600, 410), 35, (30, 120, 50), cv2.FILLED)
    grain = np.random.default_rng(0).normal(0, 6, scene.shape)
    return np.clip(scene + grain, 0, 255).astype(np.uint8)


def measure(
    segmenter: Segmenter, vocabularies: dict[int, WordEmbeddings], image: NDArray[np.uint8], frames: int
) -> tuple[float, dict[str, float], dict[str, dict[str, float]], dict[str, float]]:
    """Median milliseconds after a warm-up, everything in turn.

    Returns:
        The image encoder alone; the whole frame by vocabulary size; its stages by vocabulary size; and the
        95th percentiles, of 'encoder' and of the whole frame by vocabulary size.
    """
    encoder_ms: list[float] = []
    frame_ms: dict[int, list[float]] = {size: [] for size in vocabularies}
    stages_ms: dict[int, list[dict[str, float]]] = {size: [] for size in vocabularies}
    for number in track(range(_WARM_UP + frames), "Timing", console=console, transient=True):
        alone = segmenter.model.encode(image).stages_ms["encode"]
        if number >= _WARM_UP:
            encoder_ms.append(alone)
        for size, words in vocabularies.items():
            start = perf_counter()
            result = segmenter.segment(image, words)
            whole = (perf_counter() - start) * 1e3
            if number >= _WARM_UP:
                frame_ms[size].append(whole)
                stages_ms[size].append(dict(result.stages_ms))
    return (
        _median(encoder_ms),
        {str(size): _median(times) for size, times in frame_ms.items()},
        {
            str(size): {stage: _median([frame[stage] for frame in times]) for stage in times[-1]}
            for size, times in stages_ms.items()
        },
        {"encoder": _p95(encoder_ms), **{str(size): _p95(times) for size, times in frame_ms.items()}},
    )


def measure_batch(encoder: ImageEncoder, batch: int, runs: int) -> float:
    """Median milliseconds of the network over several images at once.

    Raises:
        ValueError: the encoder takes one image at a time.
    """
    return _median(_timed(encoder).time_batch(draw_scene(), batch, runs))


def _timed(encoder: ImageEncoder) -> Any:
    """The encoder, if it can be timed over several images."""
    if not hasattr(encoder, "time_batch"):
        raise ValueError(f"expected a torch model for --batch, got {encoder.name}; leave --batch out")
    return encoder


def _median(times: list[float]) -> float:
    return round(float(np.median(times)), 3)


def _p95(times: list[float]) -> float:
    return round(float(np.percentile(times, 95)), 3)


def print_times(
    encoder_ms: float,
    frame_ms: dict[str, float],
    stages_ms: dict[str, dict[str, float]],
    p95_ms: dict[str, float],
    device: str,
) -> None:
    """Print what `measure` gives, for a device."""
    table = Table("ms", *(f"{int(size):,} names" for size in frame_ms), caption=device)
    table.add_row("frame", *(f"{whole:.1f}" for whole in frame_ms.values()), style="bold")
    table.add_row("95th percentile", *(f"{p95_ms[size]:.1f}" for size in frame_ms))
    table.add_row(
        "in encoders", *(f"{whole / encoder_ms:.2f}" for whole in frame_ms.values()), end_section=True
    )
    # Frames that are decided on a GPU have other stages than those whose vocabulary is too large for that.
    for stage in dict.fromkeys(stage for stages in stages_ms.values() for stage in stages):
        cells = (stages_ms[size].get(stage) for size in frame_ms)
        table.add_row(stage, *("" if cell is None else f"{cell:.2f}" for cell in cells))
    console.print(table)
    console.print(
        Text(f"Image encoder alone: {encoder_ms:.1f} ms, 95th percentile {p95_ms['encoder']:.1f} ms")
    )
