"""Words of any size and content are taken or refused with a short, printable message, at little cost."""

import tracemalloc
import unicodedata

import pytest
from fuzz import fuzz
from hypothesis import given
from hypothesis import strategies as st

from ovs_ros.vocabulary.category import MAX_ALL_PROMPTS, MAX_IDS, MAX_NEGATIVES
from ovs_ros.vocabulary.vocabulary import CategorySpec, Vocabulary, VocabularyError
from ovs_ros.vocabulary.yaml_io import find_vocabulary, load_vocabulary

HUGE = "x" * 10_000_000
pytestmark = pytest.mark.fault(
    "huge and hostile words", "refused; at most 200 printable characters of them come back"
)
ANY_TEXT = st.one_of(
    st.text(max_size=120),
    st.text(alphabet="ab \0\n\t\u200b\u202e\u2066\ufeff\u00ad\u200d{}|'\"", max_size=20),
    st.sampled_from(["person", "Person ", "x" * 5000, "\u0301" * 300, " " * 3000 + "a"]),
)
ANY_VALUE = st.one_of(
    ANY_TEXT, st.none(), st.floats(), st.integers(), st.binary(), st.lists(ANY_TEXT, max_size=3)
)


def short(error):
    assert len(str(error)) < 4000
    assert "\n" not in str(error) and "\x1b" not in str(error)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Vocabulary.from_names([HUGE]),
        lambda: Vocabulary.from_names([HUGE + "\n"]),
        lambda: Vocabulary.from_names(["a", "b"], negatives=[HUGE]),
        lambda: CategorySpec("a", prompts=(HUGE,)),
        lambda: CategorySpec("a", synonyms=(HUGE,)),
        lambda: CategorySpec("a", prompts=HUGE),
        lambda: Vocabulary.from_names(["a"]).removed([HUGE]),
        lambda: Vocabulary.from_names(["a"]).added([HUGE]),
        lambda: Vocabulary.from_names(HUGE),
        lambda: find_vocabulary(HUGE),
        lambda: CategorySpec("a", threshold=[HUGE]),
        lambda: Vocabulary.from_names([str(number) for number in range(MAX_IDS + 1)]),
    ],
)
def test_huge_words_cost_little(make):
    tracemalloc.start()
    try:
        with pytest.raises(VocabularyError) as error:
            make()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(str(error.value)) < 600
    assert peak < 60_000_000


def test_prompts_and_negative_words_are_limited_in_all():
    prompts = tuple(f"a {number}" for number in range(100))
    specs = [CategorySpec(f"thing {number}", prompts) for number in range(MAX_ALL_PROMPTS // 100 + 1)]
    with pytest.raises(VocabularyError, match="at most 200000 prompts of all categories, got 200100"):
        Vocabulary.from_specs(specs)
    negatives = [f"thing {number}" for number in range(MAX_NEGATIVES + 1)]
    with pytest.raises(VocabularyError, match="at most 10000 negative words, got 10001"):
        Vocabulary.from_names(["a"], negatives)


@pytest.mark.parametrize(
    ("character", "named"),
    [
        ("\0", "U+0000 a control character"),
        ("\x1b", "U+001B a control character"),
        ("\u202e", "U+202E RIGHT-TO-LEFT OVERRIDE"),
        ("\u2066", "U+2066 LEFT-TO-RIGHT ISOLATE"),
        ("\u200b", "U+200B ZERO WIDTH SPACE"),
        ("\ufeff", "U+FEFF ZERO WIDTH NO-BREAK SPACE"),
        ("\u00ad", "U+00AD SOFT HYPHEN"),
    ],
)
def test_characters_that_nobody_sees_are_refused_by_their_name(character, named):
    for make in (
        lambda: CategorySpec(f"cha{character}ir"),
        lambda: CategorySpec("chair", prompts=(f"a{character}b",)),
        lambda: Vocabulary.from_names(["a"], [f"cha{character}ir"]),
    ):
        with pytest.raises(VocabularyError) as error:
            make()
        assert named in str(error.value)
        assert character not in str(error.value)


@fuzz
@given(st.lists(ANY_VALUE, max_size=4), st.lists(ANY_VALUE, max_size=2), ANY_VALUE, ANY_VALUE, ANY_VALUE)
def test_anything_is_taken_or_refused(names, negatives, prompts, threshold, synonyms):
    try:
        vocabulary = Vocabulary.from_names(names, negatives)
    except VocabularyError as error:
        short(error)
    else:
        for name in (*vocabulary.names, *vocabulary.negatives):
            assert 0 < len(name) <= 100 and name == unicodedata.normalize("NFC", name)
    for name in [*names, "a"]:
        try:
            CategorySpec(name, prompts, threshold, synonyms)
        except VocabularyError as error:
            short(error)


@fuzz
@given(st.one_of(st.text(), st.lists(ANY_TEXT).map("\n- ".join), st.binary()))
def test_any_file_is_a_vocabulary_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode(errors="surrogatepass"))
    try:
        load_vocabulary(path)
    except VocabularyError as error:
        short(error)
        assert str(path) in str(error)
