"""What the labels of each training set mean: one YAML file a set, and one vocabulary over all of them.

A pixel labelled with a class says which words are right there. Which others are wrong depends on the pair of
words: "sofa" is wrong where a photograph shows a dog, while "building facade" may be right where a street
scene says "building". `JointVocabulary.answers` says it for every class of every set and every word, so that
the words of all sets can compete in one softmax.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import yaml
from numpy.typing import NDArray

Form = Literal["masks", "boxes", "names", "captions"]
Unlabelled = Literal["ignored", "none of these"]
Groups = tuple[tuple[str, ...], ...]
SHIPPED = files("ovs_ros.training.label_spaces")


@dataclass(frozen=True, kw_only=True)
class HoldOut:
    """Which images of a set without a split `val` are kept for evaluation.

    Attributes:
        every: one block of so many.
        together: images a block, in the order of their names; more than 1 where neighbours are alike.
    """

    every: int
    together: int

    def __post_init__(self) -> None:
        if self.every < 2 or self.together < 1:
            raise ValueError(f"expected every >= 2 and together >= 1, got {self.every} and {self.together}")

    def keeps(self, index: int) -> bool:
        """Whether the image of this index, sorted by name, is kept for evaluation."""
        return index // self.together % self.every == self.every - 1


@dataclass(frozen=True, kw_only=True)
class LabelSpace:
    """One training set; each field is a key of its file.

    Attributes:
        name: of the set's folder and of the file.
        form: what its labels are: "masks" of pixels, "boxes", or "names" or "captions" of whole images.
        terms: of its use, as its authors state them.
        commercial: whether these terms allow weights trained on it in a product.
        weight: how often it is drawn from, relative to the others of its kind.
        hold_out: the images kept for evaluation; None: the set has a split `val`, or is not evaluated on.
        fine: whether its folder has finer labels beside the classes (`fine/`, `fine_names.txt`).
        classifier: whether its names are those of the image encoder's own classifier, in its order.
        unlabelled: what pixels without a label are: nothing that training could use, or none of its words.
        unlabelled_never: words of other sets that pixels which are none of its words are not either.
        unlabelled_unsure: words of other sets that they may or may not be. '@SET' means all words of a set.
        classes: in the order of the labels' values; a class is a word, unless it is a union.
        unions: class -> its words; the class is right where any of them is.
        synonyms: word -> other names, used in its place now and then.
        near: words that mean nearly the same, and do not compete.
        together: words that may be true of one pixel. Those of one set compete all the same.

    Raises:
        ValueError: a value is out of range, or a union or synonym belongs to no class or word.
    """

    name: str
    form: Form
    terms: str
    commercial: bool
    weight: float
    hold_out: HoldOut | None = None
    fine: bool = False
    classifier: bool = False
    unlabelled: Unlabelled = "ignored"
    unlabelled_never: tuple[str, ...] = ()
    unlabelled_unsure: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    unions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    synonyms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    near: Groups = ()
    together: Groups = ()

    def __post_init__(self) -> None:
        for name, choices in (("form", get_args(Form)), ("unlabelled", get_args(Unlabelled))):
            if getattr(self, name) not in choices:
                raise ValueError(f"expected {name} out of {', '.join(choices)}, got {getattr(self, name)!r}")
        if not self.weight > 0:
            raise ValueError(f"expected a positive weight, got {self.weight}")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"expected classes with different names, got {', '.join(self.classes)}")
        if bool(self.classes) != self.of_pixels:
            raise ValueError(f"expected classes with masks or boxes alone, got {self.form}")
        own = self.words
        for what, keys, known in (("unions", self.unions, self.classes), ("synonyms", self.synonyms, own)):
            if other := sorted(set(keys) - set(known)):
                raise ValueError(f"expected {what} of the set's own names, got {', '.join(other)}")

    @property
    def of_pixels(self) -> bool:
        """Whether it labels parts of images, not whole ones."""
        return self.form in ("masks", "boxes")

    @property
    def groups(self) -> Groups:
        """The words of each class."""
        return tuple(self.unions.get(name, (name,)) for name in self.classes)

    @property
    def words(self) -> tuple[str, ...]:
        """All words, each once."""
        return tuple(dict.fromkeys(word for group in self.groups for word in group))

    @property
    def class_of_words(self) -> NDArray[np.intp]:
        """(words,) the class that each word belongs to: a union is right where any of its words wins."""
        class_of = {word: index for index, group in enumerate(self.groups) for word in group}
        return np.array([class_of[word] for word in self.words], np.intp)


def read_label_space(path: Path, name: str = "") -> LabelSpace:
    """Read one file.

    Args:
        path: of the YAML file.
        name: of the set; '': the file's.

    Raises:
        ValueError: it is not such a file; the message names it and what is wrong.
    """
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(loaded, dict):
            raise ValueError(f"expected a mapping, got {loaded!r}")
        if foreign := sorted({str(key) for key in loaded} - {f.name for f in fields(LabelSpace)}):
            raise ValueError(f"expected no keys such as {', '.join(foreign)}")
        return LabelSpace(
            name=name or path.stem, **{key: _typed(key, value) for key, value in loaded.items()}
        )
    except (TypeError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"expected a label space in {path}: {error}") from error


def _typed(key: str, value: Any) -> Any:
    """A value of the YAML file as the field's type."""

    def of(kind: type, given: Any) -> Any:
        if not isinstance(given, kind) or (kind is not bool and isinstance(given, bool)):
            raise TypeError(f"expected {key} to have {kind.__name__} values, got {given!r}")
        return given

    def words(given: Any) -> tuple[str, ...]:
        return tuple(of(str, word) for word in of(list, given))

    if key == "hold_out":
        return HoldOut(**{part: of(int, number) for part, number in of(dict, value).items()})
    if key in ("unions", "synonyms"):
        return {of(str, name): words(group) for name, group in of(dict, value).items()}
    if key in ("near", "together"):
        return tuple(words(group) for group in of(list, value))
    if key in ("classes", "unlabelled_never", "unlabelled_unsure"):
        return words(value)
    if key in ("commercial", "fine", "classifier"):
        return of(bool, value)
    return float(value) if key == "weight" else of(str, value)


def shipped_label_spaces() -> dict[str, LabelSpace]:
    """The sets that the project knows, by name."""
    return read_label_spaces(Path(str(SHIPPED)))


def known_space(names: Sequence[str]) -> LabelSpace | None:
    """The label space of the set that has these classes; None: no known set has them."""
    spaces = shipped_label_spaces().values()
    return next((space for space in spaces if space.classes == tuple(names)), None)


def read_label_spaces(folder: Path) -> dict[str, LabelSpace]:
    """All files of a folder, by name; what they say of each other's words is checked.

    Raises:
        ValueError: a file is wrong, or names a word or a set that none of them has.
    """
    spaces = {path.stem: read_label_space(path) for path in sorted(folder.glob("*.yaml"))}
    known = {word for space in spaces.values() for word in space.words}
    known |= {f"@{name}" for name in spaces}
    for name, space in spaces.items():
        groups = (*space.near, *space.together, space.unlabelled_never, space.unlabelled_unsure)
        if foreign := sorted({word for group in groups for word in group} - known):
            raise ValueError(f"expected words of some set in {folder / name}.yaml, got {', '.join(foreign)}")
    return spaces


class JointVocabulary:
    """The words of several sets as one vocabulary of n words.

    Args:
        spaces: the sets that are trained on.
        relations: all sets whose files say which words go together; the sets themselves among them.

    Attributes:
        words: each once.
        choices: for each word, itself and its synonyms.
        answers: set -> (classes + 1, n) int8. 1: right; -1: wrong; 0: not known, and left out of the softmax.
            Of several right words any may be it. The last row is of pixels without a label.
        columns: set -> for each class, the indices of its words.
    """

    def __init__(self, spaces: Sequence[LabelSpace], relations: Iterable[LabelSpace]) -> None:
        every = {space.name: space for space in (*spaces, *relations)}
        self.words = tuple(dict.fromkeys(word for space in spaces for word in space.words))
        self._at = {word: index for index, word in enumerate(self.words)}
        self._owned = {f"@{name}": space.words for name, space in every.items()}
        synonyms: dict[str, list[str]] = {word: [word] for word in self.words}
        for space in every.values():
            for word, others in space.synonyms.items():
                if word in synonyms:
                    synonyms[word] += [other for other in others if other not in synonyms[word]]
        self.choices = tuple(tuple(group) for group in synonyms.values())
        together = self._pairs(group for space in every.values() for group in space.together)
        near = self._pairs(group for space in every.values() for group in space.near)
        self.columns = {
            space.name: tuple(tuple(self._at[word] for word in group) for group in space.groups)
            for space in spaces
        }
        self.answers = {space.name: self._answers(space, together, near) for space in spaces}

    def _indices(self, group: Iterable[str]) -> list[int]:
        """Of a group's words, sets' names resolved; words of sets that are not trained on fall away."""
        words = (word for name in group for word in self._owned.get(name, (name,)))
        return sorted({self._at[word] for word in words if word in self._at})

    def _pairs(self, groups: Iterable[Sequence[str]]) -> NDArray[np.bool_]:
        """(n, n), which words are in one group; symmetric, every word with itself."""
        pairs = np.eye(len(self.words), dtype=bool)
        for group in groups:
            indices = self._indices(group)
            pairs[np.ix_(indices, indices)] = True
        return pairs

    def _answers(
        self, space: LabelSpace, together: NDArray[np.bool_], near: NDArray[np.bool_]
    ) -> NDArray[np.int8]:
        own = np.isin(np.arange(len(self.words)), self._indices(space.words))
        answers = np.full((len(space.classes) + 1, len(self.words)), -1, np.int8)
        for row, right in zip(answers, self.columns[space.name], strict=False):
            row[together[list(right)].any(0) & ~own | near[list(right)].any(0)] = 0
            row[list(right)] = 1
        if space.unlabelled == "ignored":
            answers[-1] = 0
        else:
            answers[-1, ~own] = 1
            answers[-1, self._indices(space.unlabelled_unsure)] = 0
            answers[-1, self._indices(space.unlabelled_never)] = -1
            answers[-1, own] = -1
        return answers
