"""What the commands share: the model, files, and how they end on a user's error."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import ovs_ros
from ovs_ros.evaluation.labelled_folder import WrongClassesError
from ovs_ros.options import LoadOptions, SegmenterOptions
from ovs_ros.runtime.files import write_atomically
from ovs_ros.segmenter import Segmenter
from ovs_ros.vocabulary.vocabulary import Vocabulary
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings

console = Console()
_errors = Console(stderr=True)

Item = TypeVar("Item")
Read = TypeVar("Read")

WordsOption = Annotated[str | None, typer.Option("--words", help="Names to look for, with commas between.")]
VocabularyOption = Annotated[
    str | None,
    typer.Option(
        "--vocabulary",
        help="Names to look for: a YAML file, or a shipped vocabulary (home, office, street, warehouse).",
    ),
]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write the results to this file as JSON.")]


@contextmanager
def user_errors() -> Iterator[None]:
    """End the command with code 2 and one line for what its user can put right: bad values and files."""
    try:
        yield
    except (ValueError, OSError, ModuleNotFoundError, WrongClassesError) as error:
        _errors.print(f"Error: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(2) from error


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


def embed_words(segmenter: Segmenter, vocabulary: Vocabulary) -> WordEmbeddings:
    """Embed a vocabulary behind a progress bar."""
    with progress_bar() as bar:
        task = bar.add_task("Embedding words", total=len(vocabulary) + len(vocabulary.negatives))
        return segmenter.embed(vocabulary, lambda done, total: bar.update(task, completed=done, total=total))


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


class Skipped:
    """Items that could not be used: said at once, listed at the end, and told by the exit status."""

    def __init__(self) -> None:
        self._reasons: list[str] = []

    def add(self, error: Exception) -> None:
        """Say why an item is skipped; once, if it is read several times."""
        if str(error) in self._reasons:
            return
        self._reasons.append(str(error))
        _errors.print(f"Skipped: {error}", style="yellow", markup=False, highlight=False)

    def __len__(self) -> int:
        """How many items were skipped."""
        return len(self._reasons)

    def end(self) -> None:
        """End the command with code 1 if anything was skipped."""
        if self._reasons:
            _errors.print(f"{len(self)} skipped, see above", style="yellow", markup=False, highlight=False)
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


def write_json(path: Path, results: Any) -> None:
    """Write results, with a line end."""
    write_atomically(path, (json.dumps(results, indent=2, ensure_ascii=False) + "\n").encode())
