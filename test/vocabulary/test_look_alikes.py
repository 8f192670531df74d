"""Names that look alike, names in other scripts, and lists in one name."""

import unicodedata
from pathlib import Path
from tempfile import NamedTemporaryFile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from ovs_ros.encoders.embedded import EmbeddedTextEncoder
from ovs_ros.encoders.model_file import ModelFile
from ovs_ros.encoders.text_cleaning import reads
from ovs_ros.vocabulary.attributes import read_attributes
from ovs_ros.vocabulary.category import CategorySpec, VocabularyError
from ovs_ros.vocabulary.linter import lint
from ovs_ros.vocabulary.text_encoder import is_latin
from ovs_ros.vocabulary.vocabulary import Vocabulary

# Unicode's Default_Ignorable_Code_Point but the joiners, and letters and symbols that look blank.
# fmt: off
IGNORABLE = [
    (0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F),
    (0x200B, 0x200B), (0x200E, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x3164, 0x3164),
    (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFF8), (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A), (0xE0000, 0xE0FFF), (0x2800, 0x2800), (0x1D159, 0x1D159),
]
# fmt: on
INVISIBLE = st.one_of(st.integers(first, last).map(chr) for first, last in IGNORABLE)
JOINERS = st.sampled_from("\u200c\u200d")
PLACES = st.integers(0, 5)
PERSIAN = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"


@given(INVISIBLE | JOINERS, PLACES)
def test_invisible_characters_are_refused_by_their_number(character, place):
    text = "chair"[:place] + character + "chair"[place:]
    for take in (
        lambda: Vocabulary.from_names([text]),
        lambda: Vocabulary.from_names(["desk"], negatives=[text]),
        lambda: CategorySpec("desk", (f"a {text}",)),
    ):
        with pytest.raises(VocabularyError, match=f"U\\+{ord(character):04X}"):
            take()


@given(INVISIBLE)
def test_nor_do_attributes_and_templates_hold_any(character):
    for text in (
        f"red{character}: {{color: red}}",
        f"cup: {{color: re{character}d}}",
        f"cup: {{synonyms: [m{character}g]}}",
    ):
        with NamedTemporaryFile(suffix=".yaml") as file:
            Path(file.name).write_text(text, encoding="utf-8")
            with pytest.raises(VocabularyError, match=rf"U\+{ord(character):04X}|special characters|mistake"):
                read_attributes(file.name)
    with pytest.raises(ValueError, match=f"U\\+{ord(character):04X}"):
        ModelFile("ViT-B-16", "openai", templates=(f"a{character} {{}}",))


def test_joiners_that_scripts_spell_with_are_kept():
    assert Vocabulary.from_names([PERSIAN]).names == (PERSIAN,)


def test_names_that_differ_in_joiners_alone_are_one():
    with pytest.raises(VocabularyError, match="once"):
        Vocabulary.from_names([PERSIAN, PERSIAN.replace("\u200c", "")])


@given(st.text(alphabet="aeiou\u00e9\u00fc\u00f6", min_size=1, max_size=8))
def test_composed_and_decomposed_names_are_one(name):
    decomposed = unicodedata.normalize("NFD", name)
    assert Vocabulary.from_names([decomposed]).names == Vocabulary.from_names([name]).names
    with pytest.raises(VocabularyError, match="once"):
        Vocabulary.from_names([name, decomposed])


FOREIGN = ["\u6905\u5b50", "\u0441\u0442\u0443\u043b", "\uc758\uc790", "\u0e1b\u0e23\u0e30\u0e15\u0e39"]


@pytest.fixture(scope="module")
def embedded_reads():
    return EmbeddedTextEncoder().reads


@pytest.mark.parametrize("name", FOREIGN)
def test_words_that_the_text_encoder_cannot_read_are_named(name, embedded_reads):
    for knows in (is_latin, embedded_reads):
        findings = lint(Vocabulary.from_names([name, "chair"], [name + name]), reads=knows)
        assert [(finding.kind, finding.names) for finding in findings] == [
            ("unreadable", (name,)),
            ("unreadable", (name + name,)),
        ]
        assert (
            lint(Vocabulary.from_names(["T\u00fcr", "\u00e9tag\u00e8re", "3.5 inch disk"]), reads=knows) == []
        )


def test_the_tokenizer_is_asked_not_only_the_script(embedded_reads):
    # Digits in circles are no letters of another script, and MiniLM's tokenizer knows none above ten.
    assert is_latin("\u246b")
    assert not embedded_reads("\u246b")


@pytest.mark.parametrize("name", FOREIGN)
def test_a_tokenizer_of_many_languages_reads_them(name):
    tokenizer = Tokenizer(WordLevel({"<unk>": 0, name: 1}, unk_token="<unk>"))
    assert reads(tokenizer, name)
    assert not reads(tokenizer, name + name)


@pytest.mark.parametrize(
    "name", ["person, car", "person . car . dog", "person | car", "person;car", "person\uff0ccar"]
)
def test_a_list_in_one_name_is_questioned(name):
    assert [finding.kind for finding in lint(Vocabulary.from_names([name]))] == ["list"]


@pytest.mark.parametrize("name", ["traffic light", "St. Bernard", "3.5 inch disk"])
def test_other_names_are_not(name):
    assert lint(Vocabulary.from_names([name])) == []
