"""`ovs bench --patches`: what a frame costs, and how right it is, by the patches that it is cut into."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ovs_ros.cli.common import Skipped, embed_words, print_table, read_each, rounded, time_in_turn
from ovs_ros.cli.known_sets import held_out, words_of
from ovs_ros.encoders.features import ResizableEncoder, resizable
from ovs_ros.evaluation.labelled_folder import load_labelled_set
from ovs_ros.evaluation.metrics import ConfusionMatrix
from ovs_ros.runtime.lettering import HEIGHT, line_of_text
from ovs_ros.segmenter import Segmenter
from ovs_ros.vocabulary.vocabulary import Vocabulary
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings

PATCHES = (200, 256, 320, 400, 520, 640, 768, 940, 1140, 1350)
"""With images of 4:3 each of them gives another grid."""
_PANEL = (300, 480)
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 40, 48
_INK, _GRID, _LINE, _PRESET = (60, 60, 60), (225, 225, 225), (0, 90, 190), (200, 0, 0)


def resizable_encoder(segmenter: Segmenter) -> ResizableEncoder:
    """The segmenter's image encoder.

    Raises:
        ValueError: its size is fixed.
    """
    encoder = resizable(segmenter.model.image_encoder)
    if encoder is None:
        raise ValueError(
            "expected a model that can cut images into more or fewer patches for --patches, got "
            f"{segmenter.model.name}, whose size is fixed; take stream, quality or a torch model"
        )
    return encoder


def measure_sizes(
    segmenter: Segmenter, words: WordEmbeddings, image: NDArray[np.uint8], frames: int
) -> dict[str, dict[str, float]]:
    """Median milliseconds of the encoder and of the whole frame, by the patches; all sizes in turn.

    Args:
        segmenter: its image encoder is resizable, and has its first size again afterwards.
        words: the vocabulary.
        image: (H, W, 3) uint8 RGB.
        frames: how many are timed for each size.
    """
    encoder = resizable_encoder(segmenter)
    preset = encoder.patches

    def frame(patches: int) -> Callable[[], tuple[float, float]]:
        def run() -> tuple[float, float]:
            encoder.resize(patches)
            segmenter.segment(image, words)  # The first frame of another size makes buffers.
            start = perf_counter()
            stages_ms = segmenter.segment(image, words).stages_ms
            whole = (perf_counter() - start) * 1e3
            return stages_ms.get("encode", whole), whole

        return run

    sizes = sorted({*PATCHES, preset})
    taken: dict[str, list[tuple[float, float]]] = {str(size): [] for size in sizes}
    for name, _, times in time_in_turn({str(size): frame(size) for size in sizes}, frames):
        taken[name].append(times)
    encoder.resize(preset)
    medians = {name: np.median(times, axis=0) for name, times in taken.items()}
    return {
        name: {"encoder_ms": round(float(encode), 3), "frame_ms": round(float(whole), 3)}
        for name, (encode, whole) in medians.items()
    }


def measure_accuracy(
    segmenter: Segmenter,
    folder: Path,
    only_held_out: bool,
    images: int | None,
    sizes: Sequence[str],
    skipped: Skipped,
) -> tuple[int, dict[str, float | None]]:
    """How many images of a labelled folder were read, and their mIoU by the patches.

    Args:
        segmenter: as in `measure_sizes`. The class names are the vocabulary, as for `ovs evaluate`.
        folder: as `ovs evaluate` takes it.
        only_held_out: as its --held-out.
        images: at most this many, at even distances; None: all.
        sizes: the patches.
        skipped: takes what cannot be read.
    """
    encoder = resizable_encoder(segmenter)
    preset = encoder.patches
    dataset, space = load_labelled_set(folder), None
    if only_held_out:
        dataset, space = held_out(dataset, folder)
    if images is not None:
        dataset = dataset.spread(images)
    asked = words_of(dataset.names, space)
    words = embed_words(segmenter, Vocabulary.from_names(asked.words))
    counted = {size: ConfusionMatrix(len(dataset.names)) for size in sizes}
    read = 0
    for _, (image, truth) in read_each(range(len(dataset)), dataset.read, skipped, f"Labelling {folder}"):
        read += 1
        for size, matrix in counted.items():
            encoder.resize(int(size))
            matrix.add(truth, asked.classes[segmenter.segment(image, words).labels])
    encoder.resize(preset)
    return read, {size: rounded(matrix.mean_iou) for size, matrix in counted.items()}


def print_sizes(results: Mapping[str, Any], device: str) -> None:
    """Print `results["patches"]`: times, also relative to the model's own size, and the mIoU of folders."""
    sizes: Mapping[str, Any] = results["patches"]
    own = sizes[str(results["preset"])]["frame_ms"]
    rows = [
        [
            f"{size} (own)" if int(size) == results["preset"] else size,
            f"{one['encoder_ms']:.1f}",
            f"{one['frame_ms']:.1f}",
            f"{one['frame_ms'] / own:.2f}",
        ]
        for size, one in sizes.items()
    ]
    print_table(["patches", "encoder ms", "frame ms", "frame, relative"], rows, device)
    if folders := next(iter(sizes.values()))["miou"]:
        mious = [[one["miou"][name] for one in sizes.values()] for name in folders]
        figures = [["–" if miou is None else f"{miou:.3f}" for miou in row] for row in mious]
        print_table(["mIoU", *sizes], [[name, *row] for name, row in zip(folders, figures, strict=True)])


def plot_sizes(results: Mapping[str, Any]) -> NDArray[np.uint8]:
    """A panel for each labelled folder, (H, W, 3) uint8 RGB: the time of a frame against the mIoU.

    Times are relative to the model's own size, which a red point shows.
    """
    sizes: Mapping[str, Any] = results["patches"]
    own = sizes[str(results["preset"])]["frame_ms"]
    times = [one["frame_ms"] / own for one in sizes.values()]
    folders = next(iter(sizes.values()))["miou"]
    return np.hstack(
        [
            _panel(name, times, [one["miou"][name] or 0.0 for one in sizes.values()], list(sizes), results)
            for name in folders
        ]
    )


def _panel(
    name: str,
    times: Sequence[float],
    mious: Sequence[float],
    sizes: Sequence[str],
    results: Mapping[str, Any],
) -> NDArray[np.uint8]:
    height, width = _PANEL
    panel = np.full((height, width, 3), 255, np.uint8)
    last = np.ceil(max(times) * 2) / 2
    step = 0.01 if max(mious) - min(mious) < 0.08 else 0.05
    low, high = np.floor(min(mious) / step) * step, np.ceil(max(mious) / step) * step

    def place(time: float, miou: float) -> tuple[int, int]:
        across = _LEFT + time / last * (width - _LEFT - _RIGHT)
        down = height - _BOTTOM - (miou - low) / max(high - low, step) * (height - _TOP - _BOTTOM)
        return round(across), round(down)

    for time in np.arange(0, last + 0.01, 0.5):
        x, _ = place(time, low)
        cv2.line(panel, (x, _TOP), (x, height - _BOTTOM), _GRID)
        _write(panel, f"{time:.1f}", x - 10, height - _BOTTOM + 2)
    for miou in np.arange(low, high + step / 2, step):
        _, y = place(0, miou)
        cv2.line(panel, (_LEFT, y), (width - _RIGHT, y), _GRID)
        _write(panel, f"{miou:.2f}", _LEFT - 34, y - HEIGHT // 2)
    points = [place(time, miou) for time, miou in zip(times, mious, strict=True)]
    cv2.polylines(panel, [np.array(points, np.int32)], False, _LINE, 2, cv2.LINE_AA)
    for point, size in zip(points, sizes, strict=True):
        color = _PRESET if int(size) == results["preset"] else _LINE
        cv2.circle(panel, point, 4, color, cv2.FILLED, cv2.LINE_AA)
        _write(panel, size, point[0] - 10, point[1] + 4)
    _write(panel, f"mIoU on {name}", 8, 8)
    _write(panel, f"time of a frame ({results['preset']} patches: 1)", _LEFT, height - HEIGHT - 6)
    return panel


def _write(panel: NDArray[np.uint8], text: str, x: int, y: int) -> None:
    """Draw a line of text with its upper left corner at (x, y), as far as the panel goes."""
    line = line_of_text(text)
    room = panel[max(y, 0) : y + len(line), max(x, 0) : x + line.shape[1]]
    covered = line[: room.shape[0], : room.shape[1], None] / np.float32(255)
    room[:] = room * (1 - covered) + np.array(_INK, np.float32) * covered
