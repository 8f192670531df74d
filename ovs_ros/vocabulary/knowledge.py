"""What a model was shown of words in training, and which words it is known to confuse.

Text files beside a model's weights say so: `seen_words.txt`, names with labelled pixels, and
`caption_words.txt`, nouns of captions and names of whole images, hold one word a line; `confusions.tsv` is
written by `ovs evaluate --confusions`. `kinds.tsv` beside this module has rare words and their kinds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ovs_ros.runtime.files import read_file
from ovs_ros.runtime.quoting import quoted
from ovs_ros.vocabulary.category import CategorySpec, name_key, singular

LABELS_FILE, CAPTIONS_FILE = "seen_words.txt", "caption_words.txt"
CONFUSIONS_FILE = "confusions.tsv"
KINDS = Path(__file__).parent / "kinds.tsv"

Shown = Literal["labels", "captions", "text"]


@dataclass(frozen=True)
class Knowledge:
    """What a model knows of words, by their keys (see `name_key`).

    Attributes:
        labels: names that pixels were labelled with in training.
        captions: nouns of captions, and names of whole images.
        confusions: two names -> the share of the first one's pixels that got the second one, on images with
            labels that were not trained on.
        kinds: rare words -> what they are a kind of, a word that the model knows better: 'settee' -> 'sofa'.
    """

    labels: frozenset[str] = frozenset()
    captions: frozenset[str] = frozenset()
    confusions: Mapping[tuple[str, str], float] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)

    def shown(self, category: CategorySpec) -> Shown:
        """The most that the model was shown of a category or one of its synonyms."""
        keys = {name_key(name) for name in category.spoken}
        keys |= {singular(key) for key in keys}
        if keys & self.labels:
            return "labels"
        return "captions" if keys & self.captions else "text"

    def kinds_among(self, categories: Sequence[CategorySpec]) -> dict[str, str]:
        """The names of rare words among categories, and what each is a kind of.

        Left out are words that were labelled in training, those with prompts or synonyms, and those whose
        kind is a category too: both would share pixels.
        """
        asked = {name_key(name) for category in categories for name in category.spoken}
        found = {}
        for category in categories:
            key = name_key(category.name)
            kind = self.kinds.get(key) or self.kinds.get(singular(key))
            own = category.prompts or category.synonyms or self.shown(category) == "labels"
            if kind and not own and name_key(kind) not in asked:
                found[category.name] = kind
        return found


def knowledge_of(labels: Iterable[str]) -> Knowledge:
    """The knowledge of a model of which nothing is known but the names that pixels were labelled with."""
    return Knowledge(frozenset(map(name_key, labels)))


def load_knowledge(folder: Path) -> Knowledge:
    """Read what the files in a model's folder say, and the kinds; what is not there but the labels is empty.

    Raises:
        FileNotFoundError: there is no list of names with labels.
    """
    labels = _read_keys(folder / LABELS_FILE)
    captions = folder / CAPTIONS_FILE
    return Knowledge(
        labels,
        _read_keys(captions) if captions.is_file() else frozenset(),
        read_confusions(folder / CONFUSIONS_FILE),
        {name_key(word): kind for word, kind in _read_rows(KINDS, "word, kind")},
    )


def read_confusions(path: Path) -> dict[tuple[str, str], float]:
    """Read a file of confusions; nothing where there is none. See `Knowledge.confusions`.

    Raises:
        ValueError: a line has another form.
    """
    rows = _read_rows(path, "name, other name, share")
    return {(name_key(name), name_key(other)): float(share) for name, other, share in rows}


def confusions_text(confusions: Mapping[tuple[str, str], float]) -> str:
    """The text of a file of confusions, the most frequent first."""
    ordered = sorted(confusions.items(), key=lambda item: (-item[1], item[0]))
    return "".join(f"{name}\t{other}\t{share:.3f}\n" for (name, other), share in ordered)


def _read_rows(path: Path, form: str) -> list[list[str]]:
    """The rows of a file of values between tabs; none where there is no file."""
    lines = _lines(path) if path.is_file() else []
    rows = [line.split("\t") for line in lines]
    for number, row in enumerate(rows, 1):
        if len(row) != len(form.split(", ")):
            raise ValueError(
                f"{path}, line {number}: expected '{form}' with tabs between, got {quoted(row)}; mend it"
            )
    return rows


def _read_keys(path: Path) -> frozenset[str]:
    return frozenset(name_key(line) for line in _lines(path))


def _lines(path: Path) -> list[str]:
    try:
        return read_file(path).decode().splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"expected UTF-8 text in {path}, got something else; copy or install it again"
        ) from error
