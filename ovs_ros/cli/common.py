"""What the commands share: the model, files, and how they end on a user's error."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import ovs_ros
from ovs_ros.options import LoadOptions, SegmenterOptions
from ovs_ros.segmenter import Segmenter
from ovs_ros.vocabulary.vocabulary import Vocabulary
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})

console = Console()
_errors = Console(stderr=True)

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
    except (ValueError, OSError, ModuleNotFoundError) as error:
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


def list_images(folder: Path) -> list[Path]:
    """The image files of a folder, by name.

    Raises:
        ValueError: there are none.
    """
    images = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        raise ValueError(
            f"expected images in {folder}, got none; known are {', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return images


def read_image(path: Path) -> NDArray[np.uint8]:
    """An image file as (H, W, 3) uint8 RGB.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no image that OpenCV reads.
    """
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR) if path.stat().st_size else None
    if image is None:
        raise ValueError(f"expected an image in {path}, got something that cannot be read as one")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def write_image(path: Path, image: NDArray) -> None:
    """Write (H, W) uint8 or uint16, or (H, W, 3) uint8 RGB, in the format of the path's suffix.

    Raises:
        OSError: the file cannot be written.
    """
    done, data = cv2.imencode(
        path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    )
    if not done:
        raise OSError(f"expected to write an image of shape {image.shape} to {path}, and its encoder failed")
    path.write_bytes(data.tobytes())


def write_json(path: Path, results: Any) -> None:
    """Write results, with a line end."""
    path.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
