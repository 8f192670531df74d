"""`ovs models`: the model files that come with the package, what they cost, and whether they can run here."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ovs_ros.cli.bench import HEIGHT, WIDTH, draw_scene, measure_batch
from ovs_ros.cli.common import JsonOption, console, print_table, say, time_in_turn, write_json
from ovs_ros.cli.options import with_flags
from ovs_ros.encoders.model_file import MODEL_FILES, find_model_file, read_model_file
from ovs_ros.options import SegmenterOptions
from ovs_ros.runtime.processor import device_name

WORDS = SegmenterOptions().max_categories
"""What a decoder of its own decodes."""

COST = ("height", "width", "parameters", "flops")
"""Of a frame of a camera of 640x480; None where the shape is read off weights that are not here."""
TIMES = ("device", "precision", "frame_ms", "frame_p95_ms", "batch_ms")
"""Of a frame, from the camera's image to the logits of 32 categories, and of the network alone over 8 images
(on a GPU); None where nothing was timed."""


@with_flags()
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
    rows = []
    for path in [find_model_file(name) for name in names] if names else sorted(MODEL_FILES.glob("*.yaml")):
        with console.status(f"Counting {path.stem}"):
            row = describe(path)
        if frames and row["flops"] is not None:
            row |= _time(path, frames)
        rows.append(row)
    _print(rows)
    write_json(json_file, rows)


def describe(path: Path) -> dict[str, Any]:
    """The row of a model file: name, model, weights, here (whether they are), source, `COST` and `TIMES`.

    Without open_clip only the first three are known; the others are None.

    Raises:
        ValueError: it is no model file, or one of an exported model.
    """
    file = read_model_file(path)
    if file.exported or file.embedded:
        raise ValueError(
            f"expected a model that runs with torch in {path}, got the exported {file.model}; time it with "
            "'ovs bench --model'"
        )
    row: dict[str, Any] = {"name": path.stem, "model": file.model, "weights": file.weights}
    row |= dict.fromkeys(("here", "source", *COST, *TIMES))
    try:
        # Imported late: torch takes a while to load, and the base install lacks it.
        from ovs_ros.encoders.clip.imports import import_open_clip

        import_open_clip()
        from ovs_ros.zoo.survey import count_cost, find_source, is_here

        row |= {"here": is_here(file), "source": find_source(file)}
        return row | asdict(count_cost(file, height=HEIGHT, width=WIDTH, words=WORDS))
    except (ModuleNotFoundError, FileNotFoundError):
        return row


def _time(path: Path, frames: int) -> dict[str, Any]:
    """The `TIMES` of a model file."""
    from ovs_ros.zoo.survey import PROMPTS, random_encoder

    encoder = random_encoder(read_model_file(path))
    model, scene = encoder.model, draw_scene()
    rng = np.random.default_rng(0)
    words = rng.standard_normal((WORDS, PROMPTS if model.keeps_prompts else 1, model.dim), np.float32)
    words /= np.linalg.norm(words, axis=2, keepdims=True)
    words = words if model.keeps_prompts else words[:, 0]
    times = [ms for _, ms, _ in time_in_turn({"": lambda: encoder.encode(scene).logits(words)}, frames)]
    return {
        "device": encoder.device,
        "precision": str(encoder.dtype).removeprefix("torch."),
        "frame_ms": round(float(np.median(times)), 2),
        "frame_p95_ms": round(float(np.percentile(times, 95)), 2),
        "batch_ms": None if encoder.device == "cpu" else measure_batch(encoder, 8, frames),
    }


def _print(rows: list[dict[str, Any]]) -> None:
    def shown(value: float | None, unit: float = 1) -> str:
        return "?" if value is None else f"{value / unit:.0f}"

    print_table(
        ["model", "weights", "here", "input", "M parameters", "GFLOPs", "ms"],
        [
            [
                row["name"],
                row["weights"],
                {None: "?", True: "yes", False: "no"}[row["here"]],
                f"{row['height']}x{row['width']}" if row["height"] else "?",
                shown(row["parameters"], 1e6),
                shown(row["flops"], 1e9),
                shown(row["frame_ms"]),
            ]
            for row in rows
        ],
    )
    for row in rows:
        say(f"{row['name']}: {row['model']}" + (f", weights from {row['source']}" if row["source"] else ""))
    if any(row["here"] is None for row in rows):
        say("?: known with the extra 'clip' (torch and open_clip), which all of these models need to run")
    elif any(row["parameters"] is None for row in rows):
        say("?: its shape is read off its weights, which are not here")
    timed = next((row for row in rows if row["device"]), None)
    say(
        f"ms: median of a frame on {device_name(timed['device'])} in {timed['precision']}"
        if timed
        else "ms: give --time FRAMES"
    )
