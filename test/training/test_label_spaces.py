"""What labels mean: files are checked as they are read, and the answers of each class are consistent."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_ros.training.label_spaces import (
    HoldOut,
    JointVocabulary,
    LabelSpace,
    read_label_space,
    read_label_spaces,
    shipped_label_spaces,
)

SHIPPED = shipped_label_spaces()
OF_PIXELS = [space for space in SHIPPED.values() if space.of_pixels]


def joint(*names: str) -> JointVocabulary:
    return JointVocabulary([SHIPPED[name] for name in names], SHIPPED.values())


ALL = joint(*(space.name for space in OF_PIXELS))


def answer(vocabulary: JointVocabulary, space: str, name: str, word: str) -> int:
    """What a class of a set says of a word; the name '' is unlabelled pixels."""
    row = SHIPPED[space].classes.index(name) if name else -1
    return int(vocabulary.answers[space][row, vocabulary.words.index(word)])


@pytest.mark.parametrize("space", OF_PIXELS, ids=lambda space: space.name)
def test_a_class_is_right_with_its_own_words_alone(space: LabelSpace) -> None:
    for row, group in zip(ALL.answers[space.name], space.groups, strict=False):
        assert {ALL.words[i] for i in np.flatnonzero(row == 1)} == set(group)


def test_a_set_is_known_by_its_classes() -> None:
    """`ovs evaluate --held-out` tells it by them."""
    assert len({space.classes for space in OF_PIXELS}) == len(OF_PIXELS)


@pytest.mark.parametrize("space", OF_PIXELS, ids=lambda space: space.name)
def test_a_word_is_right_with_one_class_and_wrong_or_unsure_with_the_others(space: LabelSpace) -> None:
    columns = [ALL.words.index(word) for word in space.words]
    labelled = ALL.answers[space.name][:-1, columns]
    assert ((labelled == 1).sum(axis=0) == 1).all()


def test_what_two_words_say_of_each_other_is_symmetric() -> None:
    said: dict[tuple[str, str], set[int]] = {}
    for space in OF_PIXELS:
        for row, group in zip(ALL.answers[space.name], space.groups, strict=False):
            for word, value in zip(ALL.words, row.tolist(), strict=True):
                # A set's own words compete by its own labels, whatever other sets say of them.
                if len(group) == 1 and word not in space.words:
                    said.setdefault((group[0], word), set()).add(value)
    for pair, values in said.items():
        assert len(values) == 1, pair
        assert said.get(pair[::-1], values) == values, pair


def test_sets_without_a_relation_compete() -> None:
    assert answer(ALL, "nyuv2", "sofa", "dog") == -1
    assert answer(ALL, "voc", "dog", "sofa") == -1
    assert answer(ALL, "camvid", "road", "street") == 0
    assert answer(ALL, "camvid", "car", "wheel") == 0
    assert answer(ALL, "ccp", "shirt", "blouse") == 0
    assert answer(ALL, "ccp", "shirt", "person") == 0
    assert answer(ALL, "ccp", "shirt", "jeans") == -1


def test_a_union_is_right_with_any_of_its_words() -> None:
    assert (
        answer(ALL, "idd", "building or tree", "tree")
        == answer(ALL, "idd", "building or tree", "building")
        == 1
    )
    assert answer(ALL, "idd", "building or tree", "vegetation") == 0
    assert answer(ALL, "idd", "building or tree", "road") == -1
    assert "building or tree" not in ALL.words


def test_unlabelled_pixels_are_none_of_the_words_or_say_nothing() -> None:
    assert answer(ALL, "voc", "", "dog") == -1
    assert answer(ALL, "voc", "", "ceiling") == 1
    assert answer(ALL, "voc", "", "pedestrian") == -1
    assert answer(ALL, "voc", "", "wheel") == 0
    assert answer(ALL, "ccp", "", "road") == 1
    assert answer(ALL, "ccp", "", "person") == -1
    for space in OF_PIXELS:
        last = ALL.answers[space.name][-1]
        if space.unlabelled == "ignored":
            assert not last.any()
        else:
            assert (last[[ALL.words.index(word) for word in space.words]] == -1).all()


@given(st.sets(st.sampled_from([space.name for space in OF_PIXELS]), min_size=1))
def test_a_part_of_the_sets_says_the_same_of_its_words(names: set[str]) -> None:
    part = joint(*sorted(names))
    columns = [ALL.words.index(word) for word in part.words]
    for name in names:
        np.testing.assert_array_equal(part.answers[name], ALL.answers[name][:, columns])


def test_no_synonym_is_a_word_that_competes_with_its_own() -> None:
    sets = {word: space.name for space in OF_PIXELS for word in space.words}
    for choices in ALL.choices:
        for synonym in set(choices[1:]) & set(ALL.words):
            space = sets[choices[0]]
            row = next(i for i, g in enumerate(SHIPPED[space].groups) if choices[0] in g)
            assert ALL.answers[space][row, ALL.words.index(synonym)] >= 0, (choices[0], synonym)


def test_terms_that_allow_products_are_the_open_licences_alone() -> None:
    assert {space.terms for space in SHIPPED.values() if space.commercial} == {"CC BY 4.0", "MIT"}


def test_neighbours_are_held_out_together() -> None:
    hold_out = HoldOut(every=3, together=2)
    assert [hold_out.keeps(i) for i in range(8)] == [False] * 4 + [True] * 2 + [False] * 2


GOOD = "form: masks\nterms: mine\ncommercial: true\nweight: 1.0\nclasses: [red, green or blue]\n"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("colour: red\n", "colour"),
        ("weight: none\n", "none"),
        ("weight: 0\n", "positive weight"),
        ("form: video\n", "video"),
        ("unlabelled: maybe\n", "maybe"),
        ("unions: {yellow: [red]}\n", "yellow"),
        ("synonyms: {yellow: [gold]}\n", "yellow"),
        ("classes: [red, red]\n", "different names"),
        ("classes: red\n", "list"),
        ("hold_out: {every: 1, together: 1}\n", "every >= 2"),
        ("hold_out: {every: 2}\n", "together"),
        ("near: [red]\n", "list"),
        ("form: captions\n", "masks or boxes alone"),
        ("commercial: 1\n", "bool"),
        ("[]", "label space"),
    ],
)
def test_a_wrong_file_is_refused_and_named(tmp_path: Path, extra: str, message: str) -> None:
    kept = "".join(line + "\n" for line in GOOD.splitlines() if line.split(":")[0] != extra.split(":")[0])
    file = tmp_path / "colours.yaml"
    file.write_text(kept + extra)
    with pytest.raises(ValueError, match=message) as caught:
        read_label_space(file)
    assert str(file) in str(caught.value)


def test_words_that_no_set_has_are_refused(tmp_path: Path) -> None:
    (tmp_path / "colours.yaml").write_text(GOOD + "unions: {green or blue: [green, blue]}\n")
    assert read_label_spaces(tmp_path)["colours"].words == ("red", "green", "blue")
    (tmp_path / "colours.yaml").write_text(GOOD + "together: [[red, rouge]]\n")
    with pytest.raises(ValueError, match="rouge"):
        read_label_spaces(tmp_path)
