"""`ovs export`: write a torch model as a folder that needs no torch."""

from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.table import Table

from ovs_ros.cli.common import console, user_errors
from ovs_ros.encoders.embedded import PRESETS
from ovs_ros.encoders.model_file import ModelFile, find_model_file, read_model_file
from ovs_ros.encoders.patches import PatchGrid, fit_grid
from ovs_ros.runtime.parity import Parity, fixed_picture
from ovs_ros.runtime.processor import device_name

if TYPE_CHECKING:
    from ovs_ros.encoders.clip.dense_model import DenseModel

_WARM_UP = 2


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
    with user_errors():
        file = _model_file(model)
        height, width = _size(size)
        from ovs_ros.encoders.clip.imports import import_open_clip

        import_open_clip()  # First, because its error says what to install.
        from ovs_ros.encoders.clip.export import export_model
        from ovs_ros.zoo.families import load_dense_model

        with console.status("Loading the model"):
            dense = load_dense_model(file)
        grid = fit_grid(height, width, patches=file.patches, patch=dense.stride)
        console.print(
            f"{dense.name}: {grid.rows} x {grid.columns} patches of {grid.patch} pixels", markup=False
        )
        with console.status("Writing and checking"):
            export_model(
                dense, output, grid, templates=file.templates, half=fp16, int8=int8, report=_print_parity
            )
        if compare:
            precisions = ["fp32", *(["int8"] if int8 else [])]
            _print_times(time_in_turn(dense, output, grid, precisions, compare, threads), threads)


def time_in_turn(
    model: "DenseModel", folder: Path, grid: PatchGrid, precisions: list[str], frames: int, threads: int
) -> dict[str, list[float]]:
    """Milliseconds of each frame, torch and ONNX Runtime one after the other, so that all see the same load.

    The first is open_clip's own forward pass of the image tower where the model has one.

    Args:
        model: in torch, in float32 on the CPU.
        folder: that it was exported to.
        grid: that it was exported for.
        precisions: which files to run.
        frames: how many of each.
        threads: for each.
    """
    import torch

    from ovs_ros.encoders.clip.export import ImageGraph, eager_tower
    from ovs_ros.encoders.manifest import image_file
    from ovs_ros.runtime.onnx import open_session

    torch.set_num_threads(threads)
    picture = fixed_picture(grid.rows * grid.patch, grid.columns * grid.patch)[None]
    image, graph = torch.from_numpy(picture), ImageGraph(model)
    ways: dict[str, Callable[[], Any]] = {}
    if (tower := eager_tower(model, grid)) is not None:
        ways["open_clip in eager torch"] = lambda: tower(image)
    ways["dense features in eager torch"] = lambda: graph(image)
    for precision in precisions:
        session = open_session(folder / image_file(precision), threads=threads)
        ways[f"ONNX Runtime, {precision}"] = _runner(session, picture)
    times: dict[str, list[float]] = {name: [] for name in ways}
    with torch.inference_mode(), console.status("Timing"):
        for number in range(_WARM_UP + frames):
            for name, run in ways.items():
                start = perf_counter()
                run()
                if number >= _WARM_UP:
                    times[name].append((perf_counter() - start) * 1e3)
    return times


def _runner(session: Any, picture: Any) -> Callable[[], Any]:
    return lambda: session.run(None, {"image": picture})


def _model_file(name: str) -> ModelFile:
    """The model file that a name means.

    Raises:
        ValueError: it means the embedded model, or one that was exported already.
    """
    file = None if name in PRESETS else read_model_file(find_model_file(name))
    if file is None or file.embedded:
        raise ValueError(
            f"expected a model that runs with torch, got {name}, which is ONNX already; use it as it is"
        )
    if file.exported:
        raise ValueError(
            f"expected a model that runs with torch, got {file.model}, which was exported already"
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
        raise ValueError(f"expected the size as HEIGHTxWIDTH, such as 480x640, got {text!r}")
    return int(height), int(width)


def _print_parity(file: str, parities: Mapping[str, Parity]) -> None:
    figures = "; ".join(f"{name}: {parity}" for name, parity in parities.items())
    console.print(f"{file}: cosines with torch: {figures}", markup=False, highlight=False, soft_wrap=True)


def _print_times(times: Mapping[str, list[float]], threads: int) -> None:
    """The lower quartile: least disturbed by other work on the machine."""
    first = np.percentile(next(iter(times.values())), 25)
    heads = (f"ms, {threads} threads", "lower quartile", "median", "times as fast")
    table = Table(*heads, caption=device_name("cpu"))
    for name, values in times.items():
        quartile = np.percentile(values, 25)
        table.add_row(name, f"{quartile:.0f}", f"{np.median(values):.0f}", f"{first / quartile:.2f}")
    console.print(table)
