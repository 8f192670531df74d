"""`ovs models`: the model files that come with the package, what they cost, and whether they can run here."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table
from rich.text import Text

from ovs_ros.cli.bench import draw_scene, measure_batch
from ovs_ros.cli.common import JsonOption, console, user_errors, write_json
from ovs_ros.encoders.model_file import MODEL_FILES, find_model_file, read_model_file
from ovs_ros.options import SegmenterOptions
from ovs_ros.runtime.processor import device_name

HEIGHT, WIDTH = 480, 640
WORDS = SegmenterOptions().max_categories
"""What a decoder of its own decodes."""
WARM_UP = 2


@dataclass(frozen=True)
class ModelRow:
    """What is said of a model file.

    Attributes:
        name: what `--model` calls it.
        model, weights: as the file has them.
        here: whether its weights are on this machine.
        source: where they come from.
        height, width: of the networks' input in pixels for a camera of 640x480; None where the shape is read
            off weights that are not here.
        parameters: of all its networks, the text tower included; None likewise.
        flops: of a frame; None likewise.
        device, precision: where frames were timed, and how; None: they were not.
        frame_ms, frame_p95_ms: of a frame, from the camera's image to the logits of 32 categories: median and
            95th percentile; None likewise.
        batch_ms: of the network alone over 8 images, on a GPU; None likewise.
    """

    name: str
    model: str
    weights: str
    here: bool
    source: str
    height: int | None = None
    width: int | None = None
    parameters: int | None = None
    flops: int | None = None
    device: str | None = None
    precision: str | None = None
    frame_ms: float | None = None
    frame_p95_ms: float | None = None
    batch_ms: float | None = None


def models(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL]...", help="Only these; default: all of them.")
    ] = None,
    frames: Annotated[
        int,
        typer.Option("--time", metavar="FRAMES", min=0, help="Time so many frames of each, random weights."),
    ] = 0,
    json_file: JsonOption = None,
) -> None:
    """List the model files that come with the package, for --model: architecture, cost, weights.

    GFLOPs are those of a frame of 640x480, decoders with 32 categories included; a multiplication and its
    addition count as two. They are counted without weights, and nothing is downloaded. Frames are timed with
    random weights, on the device and in the precision that the model file says.
    """
    with user_errors():
        shipped = sorted(MODEL_FILES.glob("*.yaml"))
        rows = []
        for path in [find_model_file(name) for name in names] if names else shipped:
            with console.status(f"Counting {path.stem}"):
                row = describe(path)
            if frames and row.flops is not None:
                with console.status(f"Timing {path.stem}"):
                    row = replace(row, **_time(path, frames))
            rows.append(row)
        _print(rows)
        if json_file:
            write_json(json_file, [asdict(row) for row in rows])


def describe(path: Path) -> ModelRow:
    """What is to be said of a model file.

    Raises:
        ValueError: it is no model file, or one of an exported model.
        ModuleNotFoundError: open_clip is not installed.
    """
    file = read_model_file(path)
    if file.exported or file.embedded:
        raise ValueError(
            f"expected a model that runs with torch in {path}, got the exported {file.model}; time it with "
            "'ovs bench --model'"
        )
    # Imported late: torch takes a while to load, and the base install lacks it.
    from ovs_ros.encoders.clip.imports import import_open_clip

    import_open_clip()
    from ovs_ros.zoo.survey import count_cost, find_source, is_here

    row = ModelRow(path.stem, file.model, file.weights, is_here(file), find_source(file))
    try:
        cost = count_cost(file, height=HEIGHT, width=WIDTH, words=WORDS)
    except FileNotFoundError:
        return row
    return ModelRow(**{**asdict(row), **asdict(cost)})


def _time(path: Path, frames: int) -> dict[str, Any]:
    """The fields of `ModelRow` that timing gives."""
    from ovs_ros.zoo.survey import PROMPTS, random_encoder

    encoder = random_encoder(read_model_file(path))
    model, scene = encoder.model, draw_scene()
    rng = np.random.default_rng(0)
    words = rng.standard_normal((WORDS, PROMPTS if model.keeps_prompts else 1, model.dim), np.float32)
    words /= np.linalg.norm(words, axis=2, keepdims=True)
    times = []
    for _ in range(WARM_UP + frames):
        start = perf_counter()
        encoder.encode(scene).logits(words if model.keeps_prompts else words[:, 0])
        times.append((perf_counter() - start) * 1e3)
    on_gpu = encoder.device != "cpu"
    return {
        "device": encoder.device,
        "precision": str(encoder.dtype).removeprefix("torch."),
        "frame_ms": round(float(np.median(times[WARM_UP:])), 2),
        "frame_p95_ms": round(float(np.percentile(times[WARM_UP:], 95)), 2),
        "batch_ms": measure_batch(encoder, 8, frames) if on_gpu else None,
    }


def _print(rows: list[ModelRow]) -> None:
    timed = [row for row in rows if row.frame_ms is not None]
    table = Table("model", "weights", "here", "input", "M parameters", "GFLOPs", *(["ms"] if timed else []))
    for row in rows:
        size = f"{row.height}x{row.width}" if row.height else "?"
        parameters = "?" if row.parameters is None else f"{row.parameters / 1e6:.0f}"
        flops = "?" if row.flops is None else f"{row.flops / 1e9:.0f}"
        cells = [row.name, row.weights, "yes" if row.here else "no", size, parameters, flops]
        if timed:
            cells.append("?" if row.frame_ms is None else f"{row.frame_ms:.0f}")
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)
    for row in rows:
        console.print(Text(f"{row.name}: {row.model}, weights from {row.source or 'wherever you have them'}"))
    if any(row.parameters is None for row in rows):
        console.print(Text("?: its shape is read off its weights, which are not here"))
    if timed:
        device = device_name(timed[0].device or "")
        console.print(Text(f"ms: median of a frame on {device} in {timed[0].precision}"))
