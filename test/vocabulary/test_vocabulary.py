"""Ids, versions and changes of a vocabulary."""

import pickle
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ovs_ros.vocabulary.vocabulary import Category, CategorySpec, Vocabulary, VocabularyError, name_key

WORDS = [
    "Chair",
    "chair",
    " CHAIR ",
    "desk",
    "office chair",
    "office  chair",
    "person",
    "Stra\u00dfe",
    "strasse",
    "cat",
]
SOME = st.lists(st.sampled_from(WORDS), max_size=5)
BAD = st.sampled_from(["", "   ", "x" * 101])


class VocabularyLife(RuleBasedStateMachine):
    """Any sequence of changes, good and bad, against a plain model: a dict from key to id."""

    @initialize(names=st.lists(st.sampled_from(WORDS), min_size=1, max_size=3, unique_by=name_key))
    def start(self, names: list[str]) -> None:
        self.vocabulary = Vocabulary.from_names(names, ["sky"])
        self.changes = 0
        self.ids = {name_key(name): i for i, name in enumerate(names)}
        self.snapshots = [(self.vocabulary, pickle.dumps(self.vocabulary))]

    def change(self, keys: list[str], changed: Vocabulary) -> None:
        for key in keys:
            self.ids.setdefault(key, len(self.ids))
        self.vocabulary = changed
        self.changes += 1
        self.snapshots.append((changed, pickle.dumps(changed)))

    @rule(names=SOME)
    def replace(self, names: list[str]) -> None:
        keys = [name_key(name) for name in names]
        if not keys or len(set(keys)) < len(keys):
            with pytest.raises(VocabularyError):
                self.vocabulary.replaced(names)
            return
        self.change(keys, self.vocabulary.replaced(names))
        assert [name_key(name) for name in self.vocabulary.names] == keys

    @rule(names=SOME)
    def add(self, names: list[str]) -> None:
        keys = [name_key(name) for name in names]
        present = [name_key(name) for name in self.vocabulary.names]
        if not keys or len(set(present + keys)) < len(present + keys):
            with pytest.raises(VocabularyError):
                self.vocabulary.added(names)
            return
        self.change(keys, self.vocabulary.added(names))
        assert [name_key(name) for name in self.vocabulary.names] == present + keys

    @rule(names=SOME)
    def remove(self, names: list[str]) -> None:
        keys = [name_key(name) for name in names]
        present = [name_key(name) for name in self.vocabulary.names]
        left = [key for key in present if key not in keys]
        if not keys or len(set(keys)) < len(keys) or not set(keys) <= set(present) or not left:
            with pytest.raises(VocabularyError):
                self.vocabulary.removed(names)
            return
        self.change([], self.vocabulary.removed(names))
        assert [name_key(name) for name in self.vocabulary.names] == left

    @rule(names=SOME, bad=BAD)
    def bad_change(self, names: list[str], bad: str) -> None:
        for change in (self.vocabulary.replaced, self.vocabulary.added, self.vocabulary.removed):
            with pytest.raises(VocabularyError):
                change([*names, bad])

    @invariant()
    def every_name_has_the_id_that_it_always_had(self) -> None:
        assert {name_key(c.name): c.id for c in self.vocabulary.categories}.items() <= self.ids.items()
        assert {key: number for number, key in self.vocabulary.id_holders.items()} == self.ids
        assert sorted(self.ids.values()) == list(range(len(self.ids)))

    @invariant()
    def every_change_counts_once(self) -> None:
        assert self.vocabulary.version == 1 + self.changes

    @invariant()
    def older_versions_stay_as_they_were(self) -> None:
        for vocabulary, pickled in self.snapshots:
            assert vocabulary == pickle.loads(pickled)
        assert self.vocabulary.negatives == ("sky",)


VocabularyLife.TestCase.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)
TestVocabularyLife = VocabularyLife.TestCase


@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=20))
def test_from_names_numbers_them_or_refuses_them_all(names: list[str]) -> None:
    try:
        vocabulary = Vocabulary.from_names(names)
    except VocabularyError:
        keys = {name_key(name) for name in names}
        assert len(keys) < len(names) or not all(name.isprintable() and name.isalnum() for name in names)
    else:
        assert [name_key(name) for name in vocabulary.names] == [name_key(name) for name in names]
        assert vocabulary.ids.tolist() == list(range(len(names)))
        assert vocabulary.version == 1


def test_a_returning_name_brings_its_id_and_takes_new_prompts() -> None:
    first = Vocabulary.from_names(["chair", "desk"])
    back = first.removed(["chair"]).added([CategorySpec("CHAIR", ("a {}",), 0.5), CategorySpec("cat")])
    assert back.categories == (
        Category("desk", id=1),
        Category("CHAIR", ("a {}",), 0.5, id=0),
        Category("cat", id=2),
    )
    assert back.version == 3


def test_replaced_keeps_or_sets_negatives() -> None:
    vocabulary = Vocabulary.from_names(["chair"], negatives=["sky", " the  wall"])
    assert vocabulary.negatives == ("sky", "the wall")
    assert vocabulary.replaced(["desk"]).negatives == ("sky", "the wall")
    assert vocabulary.replaced(["desk"], negatives=[]).negatives == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: Vocabulary.from_names([]), "at least one category, got none"),
        (lambda v: Vocabulary.from_names("chair"), "a list of categories, got the text 'chair'"),
        (lambda v: Vocabulary.from_names(["a"], negatives="sky"), "a list of negative words, got the text"),
        (lambda v: Vocabulary.from_names(["a"], negatives=["sky", "Sky"]), "negative word once, got 'sky'"),
        (lambda v: Vocabulary.from_names(["a"], negatives=[" "]), "negative name with a letter"),
        (lambda v: Vocabulary.from_names(["Desk", " desk"]), "each category once, got 'Desk' and 'desk'"),
        (lambda v: v.replaced([]), "at least one category"),
        (lambda v: v.replaced(["cat", "cat"]), "each category once"),
        (lambda v: v.added([]), "at least one category to add"),
        (lambda v: v.added(["cat", "DESK"]), "got 'DESK', which the vocabulary already holds"),
        (lambda v: v.removed([]), "at least one name to remove"),
        (lambda v: v.removed("desk"), "a list of names to remove"),
        (lambda v: v.removed(["sofa", "desk"]), "got 'sofa'; it holds 'chair', 'desk'"),
        (lambda v: v.removed(["desk", "Desk"]), "each name to remove once"),
        (lambda v: v.removed(["desk", "chair"]), "at least one category to stay"),
        (lambda v: Vocabulary((Category("a", id=0), Category("b", id=0))), "'a' to hold its id 0, which is"),
        (lambda v: Vocabulary((Category("a", id=0),), id_holders={0: "b", 1: "a"}), "that of 'b'"),
        (lambda v: Vocabulary((Category("a", id=0),), id_holders={0: "a", 65535: "b"}), "0 to 65534"),
        (lambda v: Vocabulary((Category("a", id=0),), version=0), "version from 1"),
    ],
)  # fmt: skip
def test_refuses_impossible_changes(change, message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        change(Vocabulary.from_names(["chair", "desk"]))


def test_names_the_first_few_of_many_in_a_message() -> None:
    vocabulary = Vocabulary.from_names([f"name {i}" for i in range(30)])
    with pytest.raises(VocabularyError, match=r"'name 9' and 20 more$"):
        vocabulary.removed(["sofa"])


@pytest.mark.parametrize(
    ("count", "wide", "unknown"),
    [(1, False, 255), (254, False, 255), (255, True, 65535), (1000, True, 65535)],
)
def test_label_width_follows_the_number_of_categories(count: int, wide: bool, unknown: int) -> None:
    vocabulary = Vocabulary.from_names([f"name {i}" for i in range(count)])
    assert (vocabulary.wide, vocabulary.unknown_id) == (wide, unknown)


def test_label_width_follows_the_largest_id() -> None:
    used_up = Vocabulary.from_names([f"name {i}" for i in range(254)])
    at_254 = used_up.replaced(["a"])
    assert at_254.ids.tolist() == [254] and not at_254.wide
    at_255 = at_254.replaced(["b"])
    assert at_255.ids.tolist() == [255] and at_255.unknown_id == 65535
    assert not at_255.replaced(["name 3"]).wide


def test_spare_ids_go_to_others_only_when_small_ids_run_short() -> None:
    used_up = Vocabulary.from_names([f"name {i}" for i in range(254)]).replaced(["name 0"])
    roomy = used_up.with_spare_ids([9, 8, 7])
    assert roomy.replaced(["a", "b", "c"]).ids.tolist() == [254, 9, 8]
    assert roomy.replaced(["a", "name 9", "b"]).ids.tolist() == [254, 9, 8]
    assert roomy.replaced(["a", "b"]).replaced(["name 9"]).ids.tolist() == [255]
    assert roomy.replaced([str(i) for i in range(5)]).ids.tolist() == [254, 255, 256, 257, 258]
    assert roomy.version == used_up.version and roomy == used_up


def test_few_names_with_large_ids_get_small_ones_if_all_of_them_can() -> None:
    wide = Vocabulary.from_names([f"name {i}" for i in range(300)])
    few = wide.replaced(["name 290", "name 0", "name 299"])
    assert few.wide and few.with_spare_ids([5]).replaced(few.categories).ids.tolist() == [290, 0, 299]
    small = few.with_spare_ids([5, 260, 4]).replaced(few.categories)
    assert small.ids.tolist() == [5, 0, 4] and not small.wide
    assert small.replaced(["name 299", "name 290"]).ids.tolist() == [4, 5]
    assert small.id_holders[290] == "name 290"


def test_all_ids_can_be_used_but_no_more() -> None:
    full = Vocabulary.from_names([str(i) for i in range(65535)])
    assert full.ids[-1] == 65534 and full.unknown_id == 65535
    with pytest.raises(VocabularyError, match="at most 65535 names, .* got 1 more"):
        full.replaced(["one more"])
    with pytest.raises(VocabularyError, match="at most 65535 categories, got more"):
        Vocabulary.from_names([str(i) for i in range(65536)])
    assert full.replaced(["17"]).ids.tolist() == [17]


def test_with_all_ids_held_spare_ones_go_to_others() -> None:
    held = {0: "chair", **{number: f"name {number}" for number in range(1, 65535)}}
    vocabulary = Vocabulary((Category("chair", id=0),), id_holders=held)
    with pytest.raises(VocabularyError, match="at most 65535 names, .* got 1 more"):
        vocabulary.added(["one more", "name 9"])
    spared = vocabulary.with_spare_ids([61000, 300, 60000])
    assert spared.added(["one more", "name 300", "another"]).ids.tolist() == [0, 61000, 300, 60000]


def test_nothing_can_be_written_to() -> None:
    history: dict[int, str] = {0: "chair"}
    vocabulary = Vocabulary((Category("chair", id=0),), id_holders=history)
    history[1] = "desk"
    assert dict(vocabulary.id_holders) == {0: "chair"}
    with pytest.raises(TypeError):
        vocabulary.id_holders[1] = "desk"  # type: ignore[index]
    with pytest.raises(FrozenInstanceError):
        vocabulary.version = 2  # type: ignore[misc]
    with pytest.raises(ValueError, match="read-only"):
        vocabulary.ids[0] = 1
    assert vocabulary.ids.dtype == np.uint16


def test_equal_vocabularies_hash_and_pickle_alike() -> None:
    one, two = (Vocabulary.from_names(["chair", "desk"], ["sky"]) for _ in range(2))
    assert one == two and hash(one) == hash(two) and pickle.loads(pickle.dumps(one)) == one
    assert one != one.removed(["desk"]).added(["desk"])
