"""`ovs bench`: how long a frame takes, and what the size of the vocabulary has to do with it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer
from numpy.typing import NDArray

from ovs_ros.cli.bench_patches import (
    PATCHES,
    measure_accuracy,
    measure_sizes,
    plot_sizes,
    print_sizes,
    resizable_encoder,
)
from ovs_ros.cli.bench_words import ADJECTIVES, NOUNS
from ovs_ros.cli.common import (
    JsonOption,
    ModelsOption,
    Skipped,
    embed_words,
    load_segmenter,
    print_table,
    run_ros_module,
    say,
    time_in_turn,
    write_json,
)
from ovs_ros.cli.options import with_flags
from ovs_ros.encoders.features import ImageEncoder
from ovs_ros.options import LoadOptions, SegmenterOptions
from ovs_ros.runtime.images import write_image
from ovs_ros.runtime.processor import device_name
from ovs_ros.segmenter import Segmenter
from ovs_ros.vocabulary.vocabulary import Vocabulary
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings

SIZES = (20, 150, 847, 5000, 20000, 65000)
CURVE_WORDS = 150
"""How many names frames are decided among with --patches."""
_DEGREES = ("", "very ", "rather ")
"""What adjectives take before them, so that there are names enough."""
HEIGHT, WIDTH = 480, 640


@with_flags(leave_out=["select"])
def bench(
    frames: Annotated[
        int, typer.Option(min=20, help="Frames timed for each size; medians are reported.")
    ] = 60,
    exhaustive: Annotated[
        bool, typer.Option("--exhaustive", help="Switch selection off: decide every frame among all words.")
    ] = False,
    batch: Annotated[
        int,
        typer.Option(
            min=0,
            help="Also time so many images at once: the network alone, and whole frames together and one by "
            "one; torch only.",
        ),
    ] = 0,
    cameras: Annotated[
        int,
        typer.Option(
            min=0,
            help="Run the node with this many cameras instead: memory for each more camera, rates and "
            "shares. It needs ROS 2, and takes --model, --device, --threads and --json.",
        ),
    ] = 0,
    patches: Annotated[
        bool,
        typer.Option(
            "--patches",
            help=f"Time frames that are cut into {PATCHES[0]} to {PATCHES[-1]} patches instead, with "
            f"{CURVE_WORDS} names.",
        ),
    ] = False,
    labelled: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="With --patches: also the mIoU at each size on DIR, as `ovs evaluate` takes it.",
        ),
    ] = None,
    only_held_out: Annotated[
        bool,
        typer.Option(
            "--held-out", help="Take only the images of each DIR that `ovs evaluate --held-out` takes."
        ),
    ] = False,
    images: Annotated[
        int | None, typer.Option(min=1, help="At most this many images of each DIR, at even distances.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="With --labelled: draw the time of a frame against the mIoU (PNG).")
    ] = None,
    border: Annotated[
        bool,
        typer.Option(
            "--border",
            help="Time what ROS costs a frame instead: messages to arrays, results to messages. It needs "
            "ROS 2, and takes --frames, --threads and --json.",
        ),
    ] = False,
    models: ModelsOption = None,
    json_file: JsonOption = None,
    *,
    load: LoadOptions,
    options: SegmenterOptions,
) -> None:
    """Time one 640x480 frame for vocabularies of 20 to 65,000 names, and the image encoder alone.

    All are timed in turn, frame by frame, so that a machine that slows down slows all of them alike.
    """
    output = ["--json", str(json_file)] if json_file else []
    if border:
        run_ros_module("bench_border", ["--frames", str(frames), "--threads", str(load.threads), *output])
    if cameras:
        parameters = [f"{name}:={getattr(load, name)}" for name in ("model", "device", "threads")]
        run_ros_module("bench_cameras", ["--cameras", str(cameras), *output, *parameters])
        return
    if not patches and (labelled or only_held_out or images or plot):
        raise ValueError(
            "expected --patches beside --labelled, --held-out, --images and --plot, got none; add it"
        )
    if plot and not labelled:
        raise ValueError("expected --labelled DIR beside --plot, got none; mIoU is what is drawn")
    if plot and plot.suffix.lower() != ".png":
        raise ValueError(f"expected the name of a PNG file for --plot, got {plot}")
    segmenter = load_segmenter(load, replace(options, select=not exhaustive), models=models)
    if patches:
        run_patches(segmenter, labelled or [], only_held_out, images, frames, plot, json_file)
        return
    if batch:
        _timed(segmenter.model.image_encoder)  # An error must come before minutes of timing.
    device = device_name(segmenter.model.device)
    vocabularies = compose_vocabularies(segmenter, SIZES)
    results = measure(segmenter, vocabularies, draw_scene(), frames)
    print_times(results, device)
    results |= {"model": segmenter.model.name, "device": device}
    if batch:
        results["batch_ms"] = measure_batch(segmenter.model.image_encoder, batch, frames)
        say(f"Network over {batch} images at once: {results['batch_ms']:.1f} ms")
        words = vocabularies[SIZES[0]]
        results["batch_frames_ms"] = both = measure_together(segmenter, words, draw_scene(), batch, frames)
        say(
            f"{batch} frames with {SIZES[0]} names: {both['together']:.1f} ms together, "
            f"{both['alone']:.1f} ms one by one"
        )
    say(
        f"Model {segmenter.model.name} on {device}; medians of {frames} frames, "
        f"{'all words' if exhaustive else 'selected words'}. The first {len(NOUNS)} names went through the "
        "text encoder. Longer lists add adjectives: a noun's embedding with an adjective's and some noise."
    )
    write_json(json_file, results)


def run_patches(
    segmenter: Segmenter,
    folders: Sequence[Path],
    only_held_out: bool,
    images: int | None,
    frames: int,
    picture: Path | None,
    json_file: Path | None,
) -> None:
    """Measure frames by the patches that they are cut into: see bench_patches.py.

    Raises:
        ValueError: the model's size is fixed.
    """
    preset, skipped = resizable_encoder(segmenter).patches, Skipped()
    device = device_name(segmenter.model.device)
    words = compose_vocabularies(segmenter, (CURVE_WORDS,))[CURVE_WORDS]
    sizes: dict[str, dict[str, Any]] = {
        size: {**times, "miou": {}}
        for size, times in measure_sizes(segmenter, words, draw_scene(), frames).items()
    }
    counted = {}
    for folder in folders:
        name = "/".join(folder.resolve().parts[-2:])
        # As `ovs evaluate` does: labels hold nothing that generic negatives stand for.
        counted[name], mious = measure_accuracy(
            replace(segmenter, negatives=()), folder, only_held_out, images, list(sizes), skipped
        )
        for size, miou in mious.items():
            sizes[size]["miou"][name] = miou
    results = {
        "patches": sizes,
        "preset": preset,
        "images": counted,
        "model": segmenter.model.name,
        "device": device,
    }
    print_sizes(results, device)
    if picture is not None:
        write_image(picture, plot_sizes(results))
    say(f"Model {segmenter.model.name} on {device}; medians of {frames} frames, {CURVE_WORDS} names.")
    write_json(json_file, results)
    skipped.end()


def compose_vocabularies(segmenter: Segmenter, sizes: tuple[int, ...]) -> dict[int, WordEmbeddings]:
    """Vocabularies of everyday names: nouns first, then each adjective with each noun, then with a degree.

    The text encoder embeds the single words alone. It would take minutes for all compositions, and a frame's
    time does not depend on it: a composition gets the mean of its noun and half its adjective, with noise.
    Degrees are noise alone.
    """
    words = Vocabulary.from_names((*NOUNS, *(f"{word} thing" for word in ADJECTIVES)))
    singles = embed_words(segmenter, words)  # With a bar: 80 templates of each may take minutes on a CPU.
    nouns, adjectives = np.split(singles.embeddings, [len(NOUNS)])  # (n, D), (a, D)
    dim = nouns.shape[1]
    shape = (len(_DEGREES), len(ADJECTIVES), len(NOUNS), dim)
    noise = np.random.default_rng(0).standard_normal(shape, np.float32)
    composed = nouns + 0.5 * adjectives[:, None] + 0.3 / np.sqrt(dim) * noise  # (degrees, a, n, D)
    embeddings = np.concatenate((nouns, composed.reshape(-1, dim))).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    prompts = None
    if singles.prompts is not None:  # The mean in place of each prompt: the frame's time is the same.
        apart = (len(embeddings), *singles.prompts.shape[1:])
        prompts = np.broadcast_to(embeddings.astype(np.float16)[:, None], apart)
    names = [*NOUNS, *(f"{degree}{one} {noun}" for degree, one, noun in product(_DEGREES, ADJECTIVES, NOUNS))]
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
    wall = np.array((205, 195, 180), np.float32) * shade  # (480, 1, 3)
    scene = np.repeat(wall.astype(np.uint8), WIDTH, axis=1)
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
) -> dict[str, Any]:
    """Milliseconds, everything in turn: medians, and as p95_ms 95th percentiles.

    Returns:
        encoder_ms, of the image encoder alone; frame_ms and stages_ms, of the whole frame and of its stages,
        by vocabulary size; p95_ms, of 'encoder' and of the whole frame by vocabulary size.
    """

    def segment(words: WordEmbeddings) -> Callable[[], Mapping[str, float]]:
        return lambda: segmenter.segment(image, words).stages_ms

    sizes = {str(size): segment(words) for size, words in vocabularies.items()}
    times: dict[str, list[float]] = {name: [] for name in ("encoder", *sizes)}
    stages: dict[str, list[Mapping[str, float]]] = {name: [] for name in times}
    ways = {"encoder": lambda: segmenter.model.encode(image).stages_ms, **sizes}
    for name, whole, parts in time_in_turn(ways, frames):
        times[name].append(parts["encode"] if name == "encoder" else whole)
        stages[name].append(parts)
    return {
        "encoder_ms": _median(times["encoder"]),
        "frame_ms": {size: _median(times[size]) for size in sizes},
        "stages_ms": {
            size: {stage: _median([frame[stage] for frame in stages[size]]) for stage in stages[size][-1]}
            for size in sizes
        },
        "p95_ms": {name: round(float(np.percentile(taken, 95)), 3) for name, taken in times.items()},
    }


def measure_batch(encoder: ImageEncoder, batch: int, runs: int) -> float:
    """Median milliseconds of the network over several images at once.

    Raises:
        ValueError: the encoder takes one image at a time.
    """
    return _median(_timed(encoder).time_batch(draw_scene(), batch, runs))


def measure_together(
    segmenter: Segmenter, words: WordEmbeddings, image: NDArray[np.uint8], batch: int, runs: int
) -> dict[str, float]:
    """Median milliseconds of several whole frames, 'together' and 'alone', one by one; both in turn."""
    images = [image] * batch
    ways: dict[str, Callable[[], object]] = {
        "together": lambda: segmenter.segment_batch(images, words),
        "alone": lambda: [segmenter.segment(one, words) for one in images],
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for name, taken, _ in time_in_turn(ways, runs):
        times[name].append(taken)
    return {name: _median(taken) for name, taken in times.items()}


def _timed(encoder: ImageEncoder) -> Any:
    """The encoder, if it can be timed over several images."""
    if not hasattr(encoder, "time_batch"):
        raise ValueError(f"expected a torch model for --batch, got {encoder.name}; leave --batch out")
    return encoder


def _median(times: list[float]) -> float:
    return round(float(np.median(times)), 3)


def print_times(results: dict[str, Any], device: str) -> None:
    """Print what `measure` gives, for a device."""
    encoder_ms, frame_ms, stages_ms = results["encoder_ms"], results["frame_ms"], results["stages_ms"]
    rows = [
        ["frame", *(f"{whole:.1f}" for whole in frame_ms.values())],
        ["95th percentile", *(f"{results['p95_ms'][size]:.1f}" for size in frame_ms)],
        ["frame / encoder", *(f"{whole / encoder_ms:.2f}" for whole in frame_ms.values())],
    ]
    # Frames that are decided on a GPU have other stages than those whose vocabulary is too large for that.
    for stage in dict.fromkeys(stage for stages in stages_ms.values() for stage in stages):
        cells = (stages_ms[size].get(stage) for size in frame_ms)
        rows.append([stage, *("" if cell is None else f"{cell:.2f}" for cell in cells)])
    print_table(["ms", *(f"{int(size):,} names" for size in frame_ms)], rows, device)
    say(f"Image encoder alone: {encoder_ms:.1f} ms, 95th percentile {results['p95_ms']['encoder']:.1f} ms")
