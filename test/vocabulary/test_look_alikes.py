"""Names that look alike, names in other scripts, and lists in one name."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_ros.vocabulary.category import VocabularyError
from ovs_ros.vocabulary.linter import lint
from ovs_ros.vocabulary.vocabulary import Vocabulary

INVISIBLE = ["\u200b", "\ufeff", "\u00ad", "\u200e", "\u202e", "\u2060", "\u2066"]


@given(st.sampled_from(INVISIBLE), st.integers(0, 5))
def test_invisible_characters_are_refused_by_their_number(character, place):
    name = "chair"[:place] + character + "chair"[place:]
    with pytest.raises(VocabularyError, match=f"U\\+{ord(character):04X}"):
        Vocabulary.from_names([name])


def test_joiners_that_scripts_spell_with_are_kept():
    assert (
        Vocabulary.from_names(["\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"]).names[0].count("\u200c")
        == 1
    )


@given(st.text(alphabet="aeiou\u00e9\u00fc\u00f6", min_size=1, max_size=8))
def test_composed_and_decomposed_names_are_one(name):
    decomposed = unicodedata.normalize("NFD", name)
    assert Vocabulary.from_names([decomposed]).names == Vocabulary.from_names([name]).names
    with pytest.raises(VocabularyError, match="once"):
        Vocabulary.from_names([name, decomposed])


@pytest.mark.parametrize(
    "name", ["\u6905\u5b50", "\u0441\u0442\u0443\u043b", "\uc758\uc790", "\u0e1b\u0e23\u0e30\u0e15\u0e39"]
)
def test_words_that_the_text_encoder_cannot_read_are_named(name):
    assert [finding.kind for finding in lint(Vocabulary.from_names([name, "chair"]))] == ["unreadable"]
    assert lint(Vocabulary.from_names(["T\u00fcr", "\u00e9tag\u00e8re"])) == []


@pytest.mark.parametrize(
    "name", ["person, car", "person . car . dog", "person | car", "person;car", "person\uff0ccar"]
)
def test_a_list_in_one_name_is_questioned(name):
    assert [finding.kind for finding in lint(Vocabulary.from_names([name]))] == ["list"]


@pytest.mark.parametrize("name", ["traffic light", "St. Bernard", "3.5 inch disk"])
def test_other_names_are_not(name):
    assert lint(Vocabulary.from_names([name])) == []
