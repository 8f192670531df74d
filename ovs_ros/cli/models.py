"""`ovs models`: the model files that come with the package, what they cost, and whether they can run here."""

from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from ovs_ros.cli.common import JsonOption, console, user_errors, write_json
from ovs_ros.encoders.model_file import MODEL_FILES, read_model_file
from ovs_ros.segmentation.options import SegmenterOptions

HEIGHT, WIDTH = 480, 640


@dataclass(frozen=True)
class ModelRow:
    """What is said of a model file.

    Attributes:
        name: what `--preset` calls it.
        model, weights: as the file has them.
        here: whether its weights are on this machine.
        source: where they come from.
        height, width: of the networks' input in pixels for a camera of 640x480; None where the shape is read
            off weights that are not here.
        parameters: of all its networks, the text tower included; None likewise.
        flops: of a frame; None likewise.
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


def models(json_file: JsonOption = None) -> None:
    """List the model files that come with the package, for --preset: architecture, cost, weights.

    GFLOPs are those of a frame of 640x480, decoders with 32 categories included; a multiplication and its
    addition count as two. They are counted without weights, and nothing is downloaded.
    """
    with user_errors():
        rows = []
        for path in sorted(MODEL_FILES.glob("*.yaml")):
            with console.status(f"Counting {path.stem}"):
                rows.append(describe(path))
        _print(rows)
        if json_file:
            write_json(json_file, [asdict(row) for row in rows])


def describe(path: Path) -> ModelRow:
    """What is to be said of a model file.

    Raises:
        ValueError: it is no model file.
        ModuleNotFoundError: open_clip is not installed.
    """
    file = read_model_file(path)
    # Imported late: torch takes a while to load, and the base install lacks it.
    from ovs_ros.encoders.clip.imports import import_open_clip

    import_open_clip()
    from ovs_ros.encoders.clip.survey import count_cost, find_source, is_here

    row = ModelRow(path.stem, file.model, file.weights, is_here(file), find_source(file))
    try:
        cost = count_cost(file, height=HEIGHT, width=WIDTH, words=SegmenterOptions().max_categories)
    except FileNotFoundError:
        return row
    return ModelRow(**{**asdict(row), **asdict(cost)})


def _print(rows: list[ModelRow]) -> None:
    table = Table("preset", "model", "weights", "here", "input", "M parameters", "GFLOPs", "from")
    for row in rows:
        size = f"{row.height}x{row.width}" if row.height else "?"
        parameters = "?" if row.parameters is None else f"{row.parameters / 1e6:.0f}"
        flops = "?" if row.flops is None else f"{row.flops / 1e9:.0f}"
        cells = (row.name, row.model, row.weights, "yes" if row.here else "no", size, parameters, flops)
        table.add_row(*(Text(cell) for cell in cells), Text(row.source, overflow="fold"))
    console.print(table)
    if any(row.parameters is None for row in rows):
        console.print(Text("?: its shape is read off its weights, which are not here"))
