"""The words of a running node in a file, so that they are the same after a restart: versions and ids too.

The file is an npz: 'words', UTF-8 JSON in bytes, and for each example's image and mask the arrays that the
JSON counts. Images are not in it, only what a model saw of them. Reading it runs no code.
"""

import json
import os
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ovs_ros.runtime.files import write_atomically
from ovs_ros.vocabulary.category import Category
from ovs_ros.vocabulary.errors import VocabularyError
from ovs_ros.vocabulary.examples import Arrays, Example, Seen
from ovs_ros.vocabulary.vocabulary import Vocabulary

MOST_BYTES = 256 << 20
"""Of a file, most of it what models saw of examples' images."""
_FORM = "ovs_ros words 2"
_HIGHEST_VERSION = 1 << 31
_REASON_LENGTH = 300
_MOST_PIXELS = 1 << 28
_MASK, _KEY = "mask", "words"
_SEEN = {"tokens": ("f2", 3), "patches": ("f2", 3), "span": ("f8", 1), "size": ("i8", 1)}
"""The kind and the dimensions of each array that `arrays_of` in steps/teaching.py gives."""


class State(NamedTuple):
    """What is kept over a restart.

    Attributes:
        vocabulary: the words; of examples' images, what a model saw (`Seen`).
        changed: they differ from the words of the start.
    """

    vocabulary: Vocabulary
    changed: bool


class StateFile:
    """A file that holds a `State`. One node alone may use it.

    Args:
        path: where it is, or will be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> State | None:
        """What the file holds; None: there is none.

        Raises:
            VocabularyError: it cannot be read, is too large, or holds something else.
        """
        try:
            if not self._exists():
                return None
            self._check_size(self.path.stat().st_size)
            with zipfile.ZipFile(self.path) as archive:
                parts = archive.infolist()
                if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
                    raise ValueError("it is compressed")
                self._check_size(sum(part.file_size for part in parts))
            with np.load(self.path, allow_pickle=False) as file:
                return _decoded(lambda name: file[name])
        except Exception as error:  # Whatever is in the file.
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:_REASON_LENGTH]
            raise VocabularyError(
                f"expected words of an earlier run in {self.path}, got a file that cannot be used ({reason})"
            ) from error

    def write(self, state: State) -> None:
        """Keep a state in place of the one before: as a whole, or, if something fails, not at all.

        Raises:
            OSError: the file cannot be written.
            VocabularyError: it would be too large.
        """
        self._exists()
        data = BytesIO()
        np.savez(data, **_encoded(state))  # type: ignore[arg-type]  # its stub has no keywords
        self._check_size(len(data.getbuffer()))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, data.getvalue())

    def set_aside(self) -> Path:
        """Give the file the ending '.old' in addition. Returns the new path.

        Raises:
            OSError: it cannot be renamed.
        """
        self._exists()
        return self.path.replace(self.path.with_name(self.path.name + ".old"))

    def _exists(self) -> bool:
        """Whether there is a file; a device, a pipe or a folder in its place is neither read nor replaced."""
        if not os.path.lexists(self.path):
            return False
        if not self.path.is_file():
            raise OSError(f"{self.path} is no file")
        return True

    def _check_size(self, count: int) -> None:
        if count > MOST_BYTES:
            raise VocabularyError(
                f"expected a state file of at most {MOST_BYTES >> 20} MiB, got {count >> 20}; remove examples"
            )


def _encoded(state: State) -> Arrays:
    vocabulary = state.vocabulary
    images: dict[str, dict[str, str]] = {}
    arrays: dict[str, NDArray[np.generic]] = {}
    masks = 0

    def example_entry(example: Example) -> dict[str, Any]:
        nonlocal masks
        seen = example.image
        assert isinstance(seen, Seen)
        if seen.key not in images:
            arrays.update({f"{name} {len(images)}": seen.arrays[name] for name in _SEEN})
            images[seen.key] = {"key": seen.key, "model": seen.model}
        entry: dict[str, Any] = {"image": list(images).index(seen.key), "negative": example.negative}
        if example.box is not None:
            entry["box"] = example.box
        if example.points:
            entry["points"] = example.points
        if example.mask is not None:
            assert isinstance(example.mask, bytes)
            arrays[f"{_MASK} {masks}"] = np.frombuffer(example.mask, np.uint8)
            entry["mask"] = masks
            masks += 1
        return entry

    document = {
        "form": _FORM,
        "version": vocabulary.version,
        "changed": state.changed,
        "ids": list(vocabulary.id_holders.items()),
        "negatives": vocabulary.negatives,
        "categories": [
            {
                "name": c.name,
                "id": c.id,
                "prompts": c.prompts,
                "threshold": c.threshold,
                "synonyms": c.synonyms,
                "examples": [example_entry(example) for example in c.examples],
                "examples_only": c.examples_only,
            }
            for c in vocabulary.categories
        ],
        "images": list(images.values()),
    }
    return {_KEY: np.frombuffer(json.dumps(document).encode(), np.uint8), **arrays}


def _decoded(load: Callable[[str], NDArray[np.generic]]) -> State:
    """The state in a file's arrays; raises whatever it may where they hold something else."""
    document = json.loads(load(_KEY).tobytes())
    if document["form"] != _FORM:
        raise ValueError(f"it has another form than '{_FORM}'")
    version, changed = document["version"], document["changed"]
    if type(version) is not int or version >= _HIGHEST_VERSION:
        raise ValueError(f"expected a version below {_HIGHEST_VERSION}")
    holders = dict(document["ids"])
    ids = [*holders, *(entry["id"] for entry in document["categories"])]
    if any(type(number) is not int for number in ids):
        raise ValueError("expected whole numbers as ids")
    if any(type(key) is not str for key in holders.values()):
        raise ValueError("expected the names that hold the ids as text")
    images = [_image(load, place, entry) for place, entry in enumerate(document["images"])]

    def example(entry: dict[str, Any]) -> Example:
        box, mask = entry.get("box"), entry.get("mask")
        return Example(
            images[entry["image"]],
            None if box is None else tuple(box),
            None if mask is None else load(f"{_MASK} {mask}").tobytes(),
            tuple(tuple(point) for point in entry.get("points", ())),
            entry["negative"] is True,
        )

    categories = tuple(
        Category(
            entry["name"],
            tuple(entry["prompts"]),
            entry["threshold"],
            tuple(entry["synonyms"]),
            tuple(example(one) for one in entry["examples"]),
            entry["examples_only"] is True,
            id=entry["id"],
        )
        for entry in document["categories"]
    )
    return State(Vocabulary(categories, tuple(document["negatives"]), version, holders), changed is True)


def _image(load: Callable[[str], NDArray[np.generic]], place: int, entry: dict[str, str]) -> Seen:
    arrays = {name: load(f"{name} {place}") for name in _SEEN}
    for name, (kind, dimensions) in _SEEN.items():
        array = arrays[name]
        if array.dtype != np.dtype(kind) or array.ndim != dimensions or not np.isfinite(array).all():
            raise ValueError(f"expected finite {name} of {dimensions} dimensions as {kind}")
    rows, columns = arrays["tokens"].shape[:2]
    (down, across), (height, width) = arrays["span"].tolist(), arrays["size"].tolist()
    if not (arrays["patches"].shape[:2] == (rows, columns) and 0 < down <= rows and 0 < across <= columns):
        raise ValueError("expected tokens and patches of one grid")
    if not (height > 0 and width > 0 and height * width <= _MOST_PIXELS):
        raise ValueError(f"expected the size of an image of at most {_MOST_PIXELS} pixels")
    return Seen(str(entry["key"]), str(entry["model"]), arrays)
