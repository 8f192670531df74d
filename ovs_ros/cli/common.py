"""What the commands share: the model, files, and how they end on a user's error."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ovs_ros.encoders.fusion import OFF, with_second
from ovs_ros.options import REFINEMENTS, VALIDATIONS
from ovs_ros.segmenter import Segmenter
from ovs_ros.vocabulary.prompts import (
    ATTRIBUTE_READING,
    ATTRIBUTE_READINGS,
    ATTRIBUTE_WEIGHT,
    AttributePrompts,
)
from ovs_ros.vocabulary.vocabulary import Vocabulary
from ovs_ros.vocabulary.word_embeddings import EmbeddedVocabulary

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})

console = Console()
_errors = Console(stderr=True)

PresetOption = Annotated[
    str,
    typer.Option(
        "--preset",
        help="The model: 'stream' (fast), 'quality' (detailed), or a model file, as docs/guide/models.md.",
    ),
]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write the results to this file as JSON.")]
ExhaustiveOption = Annotated[
    bool, typer.Option("--exhaustive", help="Decide among all words in every frame: no selection.")
]
ValidationOption = Annotated[
    str,
    typer.Option(
        "--validation",
        help=f"What happens to regions that do not bear their name out: {', '.join(VALIDATIONS)}.",
    ),
]
RefinementOption = Annotated[
    str,
    typer.Option("--refinement", help=f"What image and patches do to the logits: {', '.join(REFINEMENTS)}."),
]
AttributesOption = Annotated[
    str,
    typer.Option(
        "--attributes",
        help="What categories look like: 'off', 'shipped', or a YAML file laid over the shipped.",
    ),
]
AttributeReadingOption = Annotated[
    str, typer.Option(help=f"How attributes come into a word's embedding: {', '.join(ATTRIBUTE_READINGS)}.")
]
AttributeWeightOption = Annotated[
    float, typer.Option(help="The attributes' share in a word's embedding, 0 to 1.")
]
SecondEncoderOption = Annotated[
    str, typer.Option("--second-encoder", help="ONNX file of a second image encoder; 'off' for none.")
]
FusionOption = Annotated[
    str, typer.Option("--fusion", help="What 'ovs train fusion' wrote for the second encoder.")
]


@contextmanager
def user_errors() -> Iterator[None]:
    """End the command with code 2 and one line for what its user can put right: bad values and files."""
    try:
        yield
    except (ValueError, OSError, ModuleNotFoundError) as error:
        _errors.print(f"Error: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(2) from error


def load_segmenter(preset: str, *, models: Path | None = None, **options: object) -> Segmenter:
    """A preset's model, with a note while it loads."""
    with console.status(f"Loading the model, preset {preset}"):
        return Segmenter.load(preset, models=models, **options)


def equip(
    segmenter: Segmenter,
    attributes: str,
    reading: str = ATTRIBUTE_READING,
    weight: float = ATTRIBUTE_WEIGHT,
    second_encoder: str = OFF,
    fusion: str = OFF,
) -> None:
    """Give a segmenter attributes of words and a second image encoder, as far as they are asked for."""
    segmenter.attributes = AttributePrompts.load(attributes, reading, weight)
    segmenter.image_encoder = with_second(segmenter.image_encoder, second_encoder, fusion)


def embed_words(segmenter: Segmenter, vocabulary: Vocabulary) -> EmbeddedVocabulary:
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
