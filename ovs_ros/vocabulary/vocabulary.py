"""The words that a robot looks for: immutable, versioned, with ids that keep their meaning."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ovs_ros.vocabulary.category import (
    MAX_IDS,
    Category,
    CategorySpec,
    VocabularyError,
    checked_name,
    name_key,
    refuse_duplicates,
)
from ovs_ros.vocabulary.examples import Example

__all__ = ["UNKNOWN_COLOR", "Category", "CategorySpec", "Vocabulary", "VocabularyError", "name_key"]

UNKNOWN_8 = 255
UNKNOWN_16 = 65535
UNKNOWN_COLOR = (0, 0, 0)
Item = TypeVar("Item")


@dataclass(frozen=True)
class Vocabulary:
    """An immutable list of categories. A change gives a new vocabulary with the next version.

    Make one with `from_names` or `from_specs`, and change it with `replaced`, `added` and `removed`: each
    either succeeds as a whole or raises VocabularyError, and none gives an id to a second name.

    Attributes:
        categories: K of them, at least one, in the user's order.
        negatives: N private words that compete for pixels and are never published: what they win is unknown.
        version: from 1, one more with every change.
        ids_ever: key (see `name_key`) of every name ever used -> its id; a name that returns gets its old id.
    """

    categories: tuple[Category, ...]
    negatives: tuple[str, ...] = ()
    version: int = 1
    ids_ever: Mapping[str, int] = field(default_factory=dict, hash=False, repr=False)

    def __post_init__(self) -> None:
        if not self.categories:
            raise VocabularyError("expected at least one category, got none; name something to look for")
        if self.version < 1:
            raise VocabularyError(f"expected a version from 1, got {self.version}")
        refuse_duplicates((c.name for c in self.categories), "category")
        ids_ever = dict(self.ids_ever) or {name_key(c.name): c.id for c in self.categories}
        if sorted(ids_ever.values()) != list(range(len(ids_ever))):
            raise VocabularyError("expected ids from 0 without gaps, one for each name ever used, got others")
        for category in self.categories:
            if ids_ever.get(name_key(category.name)) != category.id:
                raise VocabularyError(
                    f"expected '{category.name}' to keep its id {ids_ever.get(name_key(category.name))}, "
                    f"got {category.id}"
                )
        negatives = tuple(checked_name(word, "negative") for word in self.negatives)
        refuse_duplicates(negatives, "negative word")
        object.__setattr__(self, "negatives", negatives)
        object.__setattr__(self, "ids_ever", MappingProxyType(ids_ever))

    def __reduce__(self) -> tuple[Callable[..., "Vocabulary"], tuple[object, ...]]:
        # A mapping proxy cannot be pickled.
        return Vocabulary, (self.categories, self.negatives, self.version, dict(self.ids_ever))

    @classmethod
    def from_names(cls, names: Iterable[str], negatives: Iterable[str] = ()) -> "Vocabulary":
        """`from_specs` of plain names."""
        return cls.from_specs(names, negatives)

    @classmethod
    def from_specs(cls, specs: Iterable[CategorySpec | str], negatives: Iterable[str] = ()) -> "Vocabulary":
        """The first version of a vocabulary, with ids from 0 in the order of the specs.

        Raises:
            VocabularyError: no name, an empty, overlong or double name, more than 65535 of them, or wrong
                prompts or thresholds.
        """
        categories, ids_ever = _with_ids(_specs(specs), {})
        return cls(categories, _words(negatives, "negative words"), 1, ids_ever)

    def replaced(
        self, specs: Iterable[CategorySpec | str], negatives: Iterable[str] | None = None
    ) -> "Vocabulary":
        """The next version, with these categories only. Names that were there before keep their ids.

        Args:
            specs: the new categories; a plain name stands for a spec without prompts and threshold.
            negatives: the new negative words; None keeps the present ones.

        Raises:
            VocabularyError: as `from_specs`, or more than 65535 names were used over time.
        """
        categories, ids_ever = _with_ids(_specs(specs), self.ids_ever)
        words = self.negatives if negatives is None else _words(negatives, "negative words")
        return Vocabulary(categories, words, self.version + 1, ids_ever)

    def added(self, specs: Iterable[CategorySpec | str]) -> "Vocabulary":
        """The next version, with these categories after the present ones.

        Raises:
            VocabularyError: as `replaced`, or nothing to add, or a name is already there.
        """
        new = _specs(specs)
        if not new:
            raise VocabularyError("expected at least one category to add, got none")
        known = [spec.name for spec in new if name_key(spec.name) in self._keys]
        if known:
            raise VocabularyError(
                f"expected new names to add, got {_quoted(known)}, which the vocabulary already holds; "
                "leave them out, or replace the vocabulary to change their prompts or thresholds"
            )
        categories, ids_ever = _with_ids(new, self.ids_ever)
        return Vocabulary(self.categories + categories, self.negatives, self.version + 1, ids_ever)

    def removed(self, names: Iterable[str]) -> "Vocabulary":
        """The next version, without these names. Case and blanks do not matter.

        Raises:
            VocabularyError: no name, one that is not there or comes twice, or nothing would stay.
        """
        words = tuple(checked_name(name) for name in _words(names, "names to remove"))
        if not words:
            raise VocabularyError("expected at least one name to remove, got none")
        refuse_duplicates(words, "name to remove")
        missing = [word for word in words if name_key(word) not in self._keys]
        if missing:
            raise VocabularyError(
                f"expected names to remove that the vocabulary holds, got {_quoted(missing)}; "
                f"it holds {_quoted(self.names)}"
            )
        gone = {name_key(word) for word in words}
        categories = tuple(c for c in self.categories if name_key(c.name) not in gone)
        if not categories:
            raise VocabularyError(
                "expected at least one category to stay, got a removal of all of them; "
                "replace the vocabulary instead"
            )
        return Vocabulary(categories, self.negatives, self.version + 1, self.ids_ever)

    def taught(self, name: str, example: Example, *, examples_only: bool = False) -> "Vocabulary":
        """The next version, with one more example for a category, which is added if it is not there.

        Args:
            name: of the category.
            example: what shows it, or what it is not.
            examples_only: the examples alone count from now on; False: as before.

        Raises:
            VocabularyError: as `replaced`.
        """
        known = {name_key(category.name): category for category in self.categories}
        old: CategorySpec = known.get(name_key(checked_name(name))) or CategorySpec(name)
        only = examples_only or old.examples_only
        spec = replace(old, examples=(*old.examples, example), examples_only=only)
        if name_key(name) not in known:
            return self.added([spec])
        return self.replaced([spec if c is old else c for c in self.categories])

    def __len__(self) -> int:
        """K, how many categories there are."""
        return len(self.categories)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The K names, in the order of `categories`."""
        return tuple(c.name for c in self.categories)

    @cached_property
    def ids(self) -> NDArray[np.uint16]:
        """(K,) uint16, read-only: the ids, in the order of `categories`."""
        ids = np.array([c.id for c in self.categories], dtype=np.uint16)
        ids.setflags(write=False)
        return ids

    @cached_property
    def wide(self) -> bool:
        """Whether label images need 16 bits: with more than 254 categories, or an id above 254."""
        return len(self) > 254 or int(self.ids.max()) > 254

    @property
    def unknown_id(self) -> int:
        """What stands for unknown in a label image: 255, or 65535 where the vocabulary is wide."""
        return UNKNOWN_16 if self.wide else UNKNOWN_8

    @cached_property
    def _keys(self) -> frozenset[str]:
        return frozenset(name_key(c.name) for c in self.categories)


def _words(words: Iterable[Item], what: str) -> tuple[Item, ...]:
    if isinstance(words, str):  # Or it would count as a list of letters.
        raise VocabularyError(f"expected a list of {what}, got the text {words!r}; put it in brackets")
    return tuple(words)


def _specs(specs: Iterable[CategorySpec | str]) -> tuple[CategorySpec, ...]:
    return tuple(s if isinstance(s, CategorySpec) else CategorySpec(s) for s in _words(specs, "categories"))


def _with_ids(
    specs: tuple[CategorySpec, ...], ids_ever: Mapping[str, int]
) -> tuple[tuple[Category, ...], dict[str, int]]:
    """Categories whose names keep the ids they have ever had, and the ids ever used after that."""
    refuse_duplicates((spec.name for spec in specs), "category")
    ids = dict(ids_ever)
    for spec in specs:
        ids.setdefault(name_key(spec.name), len(ids))
    if len(ids) > MAX_IDS:
        raise VocabularyError(
            f"expected at most {MAX_IDS} names over the life of a vocabulary, got {len(ids)}; "
            "use fewer names, or start again with a fresh vocabulary"
        )
    given = [one.name for one in fields(CategorySpec)]
    categories = (
        Category(**{one: getattr(spec, one) for one in given}, id=ids[name_key(spec.name)]) for spec in specs
    )
    return tuple(categories), ids


def _quoted(names: Iterable[str], shown: int = 10) -> str:
    """Names for a message: the first few of them."""
    listed = list(names)
    rest = f" and {len(listed) - shown} more" if len(listed) > shown else ""
    return ", ".join(f"'{name}'" for name in listed[:shown]) + rest
