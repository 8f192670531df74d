"""What the commands share: options, the model, tables and files, and how they end on a user's error."""

import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

import ovs_ros
from ovs_ros.evaluation.labelled_folder import WrongClassesError
from ovs_ros.options import LoadOptions, SegmenterOptions
from ovs_ros.runtime.files import write_atomically
from ovs_ros.runtime.finite import NotFiniteError
from ovs_ros.segmenter import Segmenter
from ovs_ros.vocabulary.vocabulary import Vocabulary
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings
from ovs_ros.vocabulary.yaml_io import load_vocabulary

console = Console()
_errors = Console(stderr=True)

Item = TypeVar("Item")
Read = TypeVar("Read")

WordsOption = Annotated[str | None, typer.Option("--words", help="Names to look for, separated by commas.")]
VocabularyOption = Annotated[
    str | None,
    typer.Option(
        "--vocabulary",
        help="Names to look for: a YAML file, or a shipped vocabulary (home, office, street, warehouse).",
    ),
]
ModelsOption = Annotated[
    Path | None, typer.Option(help="Another folder with the model's files, as `ovs train` writes them.")
]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write the results to this file as JSON.")]


@contextmanager
def user_errors() -> Iterator[None]:
    """End the command with code 2 and one line for what its user can put right: bad values and files."""
    try:
        yield
    except (ValueError, OSError, ModuleNotFoundError, NotFiniteError, WrongClassesError) as error:
        print_error(error)
        raise typer.Exit(2) from error


def print_error(error: object) -> None:
    """Print one red line to stderr."""
    _errors.print(Text(f"Error: {error}", style="red"), soft_wrap=True)


def load_segmenter(
    load: LoadOptions,
    options: SegmenterOptions = SegmenterOptions(),  # noqa: B008  # frozen
    *,
    models: Path | None = None,
    network_file: Path | None = None,
) -> Segmenter:
    """The segmenter of a model, with a note while it loads."""
    with console.status(f"Loading the model {load.model}"):
        return ovs_ros.load(
            load.model, models=models, network_file=network_file, **load.arguments(), **asdict(options)
        )


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


def embed_words(segmenter: Segmenter, vocabulary: Vocabulary) -> WordEmbeddings:
    """Embed a vocabulary behind a progress bar."""
    with embedding_bar(vocabulary) as progress:
        return segmenter.embed(vocabulary, progress)


@contextmanager
def embedding_bar(vocabulary: Vocabulary) -> Iterator[Callable[[int, int], None]]:
    """A bar for a vocabulary's words, and what moves it: of how many words how many are done."""
    with progress_bar() as bar:
        task = bar.add_task("Embedding words", total=len(vocabulary) + len(vocabulary.negatives))
        yield lambda done, total: bar.update(task, completed=done, total=total)


def progress_bar() -> Progress:
    """A bar that goes away when it is done."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


def run_ros_module(name: str, arguments: Sequence[str]) -> NoReturn:
    """Go on as a module of `ovs_ros.ros`, which this package may not import, in this process.

    Raises:
        ModuleNotFoundError: ROS 2 is not there.
    """
    if find_spec("rclpy") is None:
        raise ModuleNotFoundError("expected ROS 2, got no rclpy; source ROS and the workspace")
    os.execv(sys.executable, [sys.executable, "-m", f"ovs_ros.ros.{name}", *arguments])


class Skipped:
    """Items that could not be used: said at once, listed at the end, and told by the exit status."""

    def __init__(self) -> None:
        self._reasons: set[str] = set()

    def add(self, error: Exception) -> None:
        """Say why an item is skipped; once, if it is read several times."""
        if str(error) not in self._reasons:
            self._reasons.add(str(error))
            _errors.print(Text(f"Skipped: {error}", style="yellow"), soft_wrap=True)

    def __len__(self) -> int:
        """How many items were skipped."""
        return len(self._reasons)

    def end(self) -> None:
        """End the command with code 1 if anything was skipped."""
        if self._reasons:
            _errors.print(Text(f"{len(self)} skipped, see above", style="yellow"))
            raise typer.Exit(1)


def read_each(
    items: Sequence[Item], read: Callable[[Item], Read], skipped: Skipped, what: str
) -> Iterator[tuple[Item, Read]]:
    """Items, and what is read for each of them, behind a progress bar; skips what cannot be read.

    Raises:
        ValueError: none can be read.
    """
    done = 0
    with progress_bar() as bar:
        for item in bar.track(items, description=what):
            try:
                content = read(item)
            except (ValueError, OSError) as error:
                skipped.add(error)
                continue
            done += 1
            yield item, content
    if not done:
        raise ValueError(f"expected images that can be read, got none among {len(items)}")


def time_in_turn(ways: Mapping[str, Callable[[], Read]], runs: int) -> Iterator[tuple[str, float, Read]]:
    """Run every way once in each of `runs` rounds, so that a machine that slows down slows all of them alike.

    Yields:
        After a warm-up, of each run its way, its milliseconds and what it returned.
    """
    warm_up = 3
    with progress_bar() as bar:
        for number in bar.track(range(warm_up + runs), description="Timing"):
            for name, run in ways.items():
                start = perf_counter()
                result = run()
                taken = (perf_counter() - start) * 1e3
                if number >= warm_up:
                    yield name, taken, result


def say(text: str) -> None:
    """Print a line, as it is."""
    console.print(Text(text))


def print_table(
    heads: Sequence[str], rows: Iterable[Sequence[str | Text]], caption: str | None = None
) -> None:
    """Print a table; text is printed as it is."""
    table = Table(*heads, caption=caption)
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    console.print(table)


def rounded(value: float, digits: int = 4) -> float | None:
    """A figure for JSON, which has no NaN."""
    return None if math.isnan(value) else round(float(value), digits)


def write_json(path: Path | None, results: Any) -> None:
    """Write results, with a line end, if there is a path."""
    if path is not None:
        write_atomically(path, (json.dumps(results, indent=2, ensure_ascii=False) + "\n").encode())
