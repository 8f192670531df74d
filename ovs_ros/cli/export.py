"""`ovs export`: write a torch model as a folder that needs no torch."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from ovs_ros.cli.common import console, print_table, say, time_in_turn
from ovs_ros.cli.options import with_flags
from ovs_ros.encoders.embedded import PRESETS
from ovs_ros.encoders.model_file import ModelFile, find_model_file, read_model_file
from ovs_ros.encoders.patches import PatchGrid, fit_grid
from ovs_ros.runtime.parity import Parity, fixed_picture
from ovs_ros.runtime.processor import device_name
from ovs_ros.runtime.quoting import quoted

if TYPE_CHECKING:
    from ovs_ros.encoders.clip.dense_model import DenseModel


@with_flags()
def export(
    model: Annotated[str, typer.Argument(help="A model file (YAML), or the name of a shipped one.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")],
    size: Annotated[
        str, typer.Option(help="The camera's image, HEIGHTxWIDTH; others are fitted into its grid.")
    ] = "480x640",
    fp16: Annotated[bool, typer.Option("--fp16", help="Write networks in fp16 too, for GPUs.")] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Write networks with int8 weights too, for CPUs.")
    ] = False,
    compare: Annotated[
        int, typer.Option(min=0, help="Time so many frames of torch and of ONNX Runtime on the CPU, in turn.")
    ] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Of the CPU, for --compare.")] = 2,
) -> None:
    """Write a model of open_clip or an official checkpoint as ONNX, for machines without torch.

    Every file is run once beside torch and must give the same: cosines of at least 0.9999 in fp32, of 0.999
    in fp16 and int8. The folder is a model: name it as `model` in a model file.
    """
    file = _model_file(model)
    height, width = _size(size)
    from ovs_ros.encoders.clip.imports import import_open_clip

    import_open_clip()  # First, because its error says what to install.
    from ovs_ros.encoders.clip.export import export_model
    from ovs_ros.zoo.families import load_dense_model

    with console.status("Loading the model"):
        dense = load_dense_model(file)
    grid = fit_grid(height, width, patches=file.patches, patch=dense.stride)
    say(f"{dense.name}: {grid.rows} x {grid.columns} patches of {grid.patch} pixels")
    with console.status("Writing and checking"):
        export_model(
            dense, output, grid, templates=file.templates, half=fp16, int8=int8, report=_print_parity
        )
    if compare:
        precisions = ["fp32", *(["int8"] if int8 else [])]
        _print_times(_times(dense, output, grid, precisions, compare, threads), threads)


def _times(
    model: "DenseModel", folder: Path, grid: PatchGrid, precisions: list[str], frames: int, threads: int
) -> dict[str, list[float]]:
    """Milliseconds of each frame, torch and ONNX Runtime in turn.

    Args:
        model: in torch, in float32 on the CPU.
        folder: that it was exported to.
        grid: that it was exported for.
        precisions: which files to run.
        frames: how many of each.
        threads: for each.
    """
    import torch

    from ovs_ros.encoders.clip.export import ImageGraph
    from ovs_ros.encoders.manifest import image_file
    from ovs_ros.runtime.onnx import open_session

    torch.set_num_threads(threads)
    picture = fixed_picture(grid.rows * grid.patch, grid.columns * grid.patch)[None]
    image, graph = torch.from_numpy(picture), ImageGraph(model)
    ways: dict[str, Callable[[], Any]] = {"torch, fp32": lambda: graph(image)}
    for precision in precisions:
        session = open_session(folder / image_file(precision), threads=threads)
        ways[f"ONNX Runtime, {precision}"] = partial(session.run, None, {"image": picture})
    times: dict[str, list[float]] = {name: [] for name in ways}
    with torch.inference_mode():
        for name, ms, _ in time_in_turn(ways, frames):
            times[name].append(ms)
    return times


def _model_file(name: str) -> ModelFile:
    """The model file that a name means.

    Raises:
        ValueError: it means the embedded model, or one that was exported already.
    """
    file = None if name in PRESETS else read_model_file(find_model_file(name))
    if file is None or file.embedded or file.exported:
        raise ValueError(
            f"expected a model that runs with torch, got {name}, which is ONNX already; use it as it is"
        )
    if file.window:
        raise ValueError(
            f"expected a model in one pass over the image, got windows of {file.window} pixels; set window "
            "to 0"
        )
    return file


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise ValueError(f"expected the size as HEIGHTxWIDTH, such as 480x640, got {quoted(text)}")
    return int(height), int(width)


def _print_parity(file: str, parities: Mapping[str, Parity]) -> None:
    figures = "; ".join(f"{name}: {parity}" for name, parity in parities.items())
    say(f"{file}: cosines with torch: {figures}")


def _print_times(times: Mapping[str, list[float]], threads: int) -> None:
    """The lower quartile: least disturbed by other work on the machine."""
    quartiles = {name: float(np.percentile(values, 25)) for name, values in times.items()}
    first = next(iter(quartiles.values()))
    print_table(
        [f"ms, {threads} threads", "lower quartile", "median", "times as fast"],
        [
            [name, f"{quartile:.0f}", f"{np.median(times[name]):.0f}", f"{first / quartile:.2f}"]
            for name, quartile in quartiles.items()
        ],
        device_name("cpu"),
    )
