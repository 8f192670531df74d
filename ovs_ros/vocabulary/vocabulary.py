"""The words that a robot looks for: immutable, versioned, each with an id that it keeps."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import islice
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ovs_ros.runtime.quoting import quoted, quoted_list
from ovs_ros.vocabulary.category import (
    MAX_ALL_PROMPTS,
    MAX_IDS,
    MAX_NEGATIVES,
    Category,
    CategorySpec,
    VocabularyError,
    checked_name,
    name_key,
    refuse_duplicates,
)
from ovs_ros.vocabulary.examples import Example
from ovs_ros.vocabulary.ids import fits_8_bits, give_ids

__all__ = ["UNKNOWN_COLOR", "Category", "CategorySpec", "Vocabulary", "VocabularyError", "name_key"]

UNKNOWN_8 = 255
UNKNOWN_16 = 65535
UNKNOWN_COLOR = (0, 0, 0)
Item = TypeVar("Item")


@dataclass(frozen=True)
class Vocabulary:
    """An immutable list of categories. A change gives a new vocabulary with the next version.

    Make one with `from_names` or `from_specs`, and change it with `replaced`, `added` and `removed`: each
    either succeeds as a whole or raises VocabularyError. A name keeps its id, and gets it again when it
    returns, with two exceptions: the ids of removed names that are in `spare_ids` may go to new names, and
    names with ids above 254 get small ones as soon as enough small ones are free or spare for all of them.

    Attributes:
        categories: K of them, at least one, in the user's order.
        negatives: N private words that compete for pixels and are never published: what they win is unknown.
        version: from 1, one more with every change.
        id_holders: id -> key (see `name_key`) of the name that has it, or had it last.
        spare_ids: ids of removed names, which the next change may give to other names, the first ones first.
    """

    categories: tuple[Category, ...]
    negatives: tuple[str, ...] = ()
    version: int = 1
    id_holders: Mapping[int, str] = field(default_factory=dict, hash=False, repr=False)
    spare_ids: tuple[int, ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.categories:
            raise VocabularyError("expected at least one category, got none; name something to look for")
        if self.version < 1:
            raise VocabularyError(f"expected a version from 1, got {self.version}")
        refuse_duplicates((c.name for c in self.categories), "category")
        holders = dict(self.id_holders) or {c.id: name_key(c.name) for c in self.categories}
        if not 0 <= min(holders) <= max(holders) < MAX_IDS:
            raise VocabularyError(
                f"expected ids from 0 to {MAX_IDS - 1}, got {quoted_list(map(str, holders))}"
            )
        for category in self.categories:
            if holders.get(category.id) != name_key(category.name):
                raise VocabularyError(
                    f"expected {quoted(category.name)} to hold its id {category.id}, which is that of "
                    f"{quoted(holders.get(category.id))}"
                )
        prompts = sum(len(category.prompts) for category in self.categories)
        for what, count, most in (
            ("prompts of all categories", prompts, MAX_ALL_PROMPTS),
            ("negative words", len(self.negatives), MAX_NEGATIVES),
        ):
            if count > most:
                raise VocabularyError(f"expected at most {most} {what}, got {count}; use fewer")
        negatives = tuple(checked_name(word, "negative") for word in self.negatives)
        refuse_duplicates(negatives, "negative word")
        object.__setattr__(self, "negatives", negatives)
        object.__setattr__(self, "id_holders", MappingProxyType(holders))

    def __reduce__(self) -> tuple[Callable[..., "Vocabulary"], tuple[object, ...]]:
        # A mapping proxy cannot be pickled.
        return Vocabulary, (
            self.categories,
            self.negatives,
            self.version,
            dict(self.id_holders),
            self.spare_ids,
        )

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
        categories, holders = _with_ids(_specs(specs), {}, ())
        return cls(categories, _words(negatives, "negative words"), 1, holders)

    def replaced(
        self, specs: Iterable[CategorySpec | str], negatives: Iterable[str] | None = None
    ) -> "Vocabulary":
        """The next version, with these categories only.

        Args:
            specs: the new categories; a plain name stands for a spec without prompts and threshold.
            negatives: the new negative words; None keeps the present ones.

        Raises:
            VocabularyError: as `from_specs`, or there are not enough ids beside those that are held.
        """
        categories, holders = _with_ids(_specs(specs), self.id_holders, self.spare_ids)
        words = self.negatives if negatives is None else _words(negatives, "negative words")
        return Vocabulary(categories, words, self.version + 1, holders)

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
                f"expected new names to add, got {quoted_list(known)}, which the vocabulary already holds; "
                "leave them out, or replace the vocabulary to change their prompts or thresholds"
            )
        return self.replaced(self.categories + new)

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
                f"expected names to remove that the vocabulary holds, got {quoted_list(missing)}; "
                f"it holds {quoted_list(self.names)}"
            )
        gone = {name_key(word) for word in words}
        left = [c for c in self.categories if name_key(c.name) not in gone]
        if not left:
            raise VocabularyError(
                "expected at least one category to stay, got a removal of all of them; "
                "replace the vocabulary instead"
            )
        return self.replaced(left)

    def with_spare_ids(self, ids: Iterable[int]) -> "Vocabulary":
        """The same version, whose next change may give these ids to other names.

        Args:
            ids: held by names that are not in the vocabulary; those to give first come first.
        """
        return replace(self, spare_ids=tuple(ids))

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
        return not fits_8_bits(self.ids.tolist())

    @property
    def unknown_id(self) -> int:
        """What stands for unknown in a label image: 255, or 65535 where the vocabulary is wide."""
        return UNKNOWN_16 if self.wide else UNKNOWN_8

    @cached_property
    def _keys(self) -> frozenset[str]:
        return frozenset(name_key(c.name) for c in self.categories)


def _words(words: Iterable[Item], what: str) -> tuple[Item, ...]:
    if isinstance(words, str):  # Or it would count as a list of letters.
        raise VocabularyError(f"expected a list of {what}, got the text {quoted(words)}; put it in brackets")
    few = tuple(islice(words, MAX_IDS + 1))
    if len(few) > MAX_IDS:
        raise VocabularyError(f"expected at most {MAX_IDS} {what}, got more; use fewer")
    return few


def _specs(specs: Iterable[CategorySpec | str]) -> tuple[CategorySpec, ...]:
    return tuple(s if isinstance(s, CategorySpec) else CategorySpec(s) for s in _words(specs, "categories"))


def _with_ids(
    specs: tuple[CategorySpec, ...], holders: Mapping[int, str], spare: Iterable[int]
) -> tuple[tuple[Category, ...], dict[int, str]]:
    """Categories with ids, and who holds each id then."""
    refuse_duplicates((spec.name for spec in specs), "category")
    ids, holders = give_ids([name_key(spec.name) for spec in specs], holders, spare)
    given = [one.name for one in fields(CategorySpec)]
    categories = (
        spec
        if isinstance(spec, Category) and spec.id == number
        else Category(**{one: getattr(spec, one) for one in given}, id=number)
        for spec, number in zip(specs, ids, strict=True)
    )
    return tuple(categories), holders
