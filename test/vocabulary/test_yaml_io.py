"""Vocabulary files: what they mean, and what a mistake in one is answered with."""

import re
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovs_ros.vocabulary.examples import Example
from ovs_ros.vocabulary.linter import lint
from ovs_ros.vocabulary.vocabulary import CategorySpec, Vocabulary, VocabularyError, name_key
from ovs_ros.vocabulary.yaml_io import (
    SHIPPED,
    Entry,
    dump_vocabulary,
    find_vocabulary,
    load_class_names,
    load_vocabulary,
    read_draft,
)

FILES = sorted(SHIPPED.glob("*.yaml"))

FULL = """\
# words for a desk
categories: [person, desk, {name: office chair, prompts: ["a photo of an office chair"], threshold: 0.3}]
negatives: [sky, shadow]
"""


@pytest.fixture(autouse=True)
def usual_recursion_limit():
    """Some libraries raise it for the whole process, and deep nesting ends elsewhere then."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)
    yield
    sys.setrecursionlimit(before)


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "words.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_full_form(tmp_path: Path) -> None:
    chair = CategorySpec("office chair", ("a photo of an office chair",), 0.3)
    expected = Vocabulary.from_specs(["person", "desk", chair], ["sky", "shadow"])
    assert load_vocabulary(write(tmp_path, FULL)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "- person\n- desk\n",
        "[person, desk]",
        "categories:\n- person\n- 'desk'\n",
        b"\xef\xbb\xbf[person, desk]",
    ],
)
def test_short_forms(tmp_path: Path, text: str | bytes) -> None:
    assert load_vocabulary(write(tmp_path, text)) == Vocabulary.from_names(["person", "desk"])


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", None, "expected a list of categories, got an empty file"),
        ("# only a comment\n", None, "got an empty file"),
        ("[]", None, "at least one category"),
        ("categories: []", None, "at least one category"),
        ("negatives: [sky]", 1, "the key 'categories'"),
        ("a: [b", 1, "expected YAML, got a mistake"),
        ("- a\n- b: [\n- c\n", 3, "expected YAML, got a mistake"),
        ("---\n- a\n---\n- b\n", 3, "expected YAML"),
        (b"- caf\xe9\n", None, "expected UTF-8 text, got the byte 0xe9 at 5"),
        ("- a\x00b\n", None, "expected YAML"),
        ("[" * 5000, 1, "more than 20 levels of lists and mappings"),
        ('- "\\UFFFFFFFF"\n', None, "expected YAML, got text that is none"),
        ('- "\\U00110000"\n', None, "expected YAML, got text that is none"),
        ("just words", 1, "a list of names, or 'categories' and 'negatives', got 'just words'"),
        ("categories: chair", 1, "expected a list of categories, got 'chair'"),
        ("categories:\n", 1, "expected a list of categories, got ''"),
        ("categories: {a: b}", 1, "expected a list of categories, got a mapping"),
        ("categories: [a]\nnegativs: [b]", 2, "got 'negativs'; did you mean 'negatives'"),
        ("categories: [a]\ncategories: [b]", 2, "the key 'categories' once"),
        ("categories: [a]\n7: [b]", 2, "one of the keys 'categories', 'negatives', got the int 7"),
        ("categories: [a]\n? [x]\n: [b]", 2, "one of the keys"),
        ("- a\n- [b, c]\n", 2, "a name or a mapping with 'name', got a list"),
        ("- a\n- 12\n", 2, "a category name as text, got the int 12; put it into quotes"),
        ("- a\n- off\n", 2, "a category name as text, got the bool off; put it into quotes"),
        ("- a\n-\n", 2, "a category name as text, got ''"),
        ("- a\n- !!python/object:os.system {}\n", 2, "the key 'name'"),
        ("- a\n- {prompts: [b]}\n", 2, "the key 'name'"),
        ("- a\n- {name: b, treshold: 0.5}\n", 2, "got 'treshold'; did you mean 'threshold'"),
        ("- a\n- {name: b, threshold: high}\n", 2, "a threshold from 0 to 1, got 'high'"),
        ("- a\n- {name: b, threshold: [0.5]}\n", 2, "a threshold from 0 to 1, got a list"),
        ("- a\n- {name: b, threshold: yes}\n", 2, "a threshold from 0 to 1, got the bool yes"),
        ("- a\n- {name: b, threshold: 1.5}\n", 2, "from 0 to 1 for 'b', got 1.5"),
        ("- a\n- {name: b, threshold: .nan}\n", 2, "from 0 to 1 for 'b', got nan"),
        (f"- a\n- {{name: b, threshold: 1{'0' * 400}}}\n", 2, "a threshold from 0 to 1, got the int 1000"),
        ("- a\n- {name: b, threshold: !!float null}\n", 2, "a threshold from 0 to 1, got the float null"),
        ("- a\n- {name: b, prompts: a photo}\n", 2, "expected a list of prompts, got 'a photo'"),
        ("- a\n- {name: b, prompts: [3]}\n", 2, "prompts as text, got the int 3"),
        ("- a\n- {name: b, prompts: ['']}\n", 2, "a prompt for 'b' with a letter"),
        ("- a\n- '  '\n", 2, "a letter or a digit"),
        ("- a\n- b\n- A\n", 3, "each category once, got 'A' again after line 1"),
        ("[a, b, a]", 1, "each category once, got 'a' again after line 1"),
        ("categories: [a]\nnegatives: sky", 2, "a list of negative words, got 'sky'"),
        ("categories: [a]\nnegatives: [1]", 2, "negative words as text, got the int 1"),
        ("categories: [a]\nnegatives: [sky, Sky]", None, "each negative word once"),
    ],
)
def test_mistakes_name_file_line_and_remedy(
    tmp_path: Path, text: str | bytes, line: int | None, message: str
) -> None:
    path = write(tmp_path, text)
    where = f"{path}: " if line is None else f"{path}, line {line}: "
    with pytest.raises(VocabularyError, match=re.escape(message)) as caught:
        load_vocabulary(path)
    assert str(caught.value).startswith(where)
    assert "expected" in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(
            VocabularyError, match=f"{re.escape(str(path))}: expected a file that can be read"
        ):
            read_draft(path)


def test_a_draft_keeps_words_that_no_vocabulary_takes(tmp_path: Path) -> None:
    path = write(tmp_path, "categories:\n- a\n- ''\n- {name: A, threshold: 7}\nnegatives: [b, b]\n")
    assert read_draft(path) == ((Entry(2, "a"), Entry(3, ""), Entry(4, "A", (), 7.0)), ("b", "b"))


TEXTS = st.text(min_size=1, max_size=30).filter(
    lambda text: any(c.isalnum() for c in text) and text.isprintable()
)
SPECS = st.builds(
    CategorySpec,
    TEXTS
    | st.sampled_from(["no", "on", "12", "1e3", "null", "~a", "a: b", "- a", "#a", "{a}", "2026-11-21"]),
    st.lists(TEXTS, max_size=2).map(tuple),
    st.none() | st.floats(0, 1),
)


@settings(deadline=None)
@given(
    st.lists(SPECS, min_size=1, max_size=6, unique_by=lambda spec: name_key(spec.name)),
    st.lists(TEXTS, max_size=3, unique_by=name_key),
)
def test_what_is_written_reads_the_same(
    tmp_path_factory, specs: list[CategorySpec], words: list[str]
) -> None:
    path = tmp_path_factory.mktemp("round") / "words.yaml"
    vocabulary = Vocabulary.from_specs(specs, words)
    dump_vocabulary(vocabulary, path)
    assert load_vocabulary(path) == vocabulary


@settings(deadline=None)
@given(st.text(alphabet="abc:-[]{},#'\"\n &*!|>%@`?0.", max_size=40))
def test_any_text_loads_or_is_refused_by_name(tmp_path_factory, text: str) -> None:
    path = write(tmp_path_factory.mktemp("any"), text)
    try:
        load_vocabulary(path)
    except VocabularyError as error:
        assert str(error).startswith(str(path))


def test_dump_writes_plain_names_plainly(tmp_path: Path) -> None:
    path = tmp_path / "words.yaml"
    dump_vocabulary(Vocabulary.from_specs(["b\u00fcro", CategorySpec("cat", (), 0.5)], ["sky"]), path)
    text = "categories:\n- b\u00fcro\n- name: cat\n  threshold: 0.5\nnegatives:\n- sky\n"
    assert path.read_text(encoding="utf-8") == text


def test_synonyms_are_read_and_written(tmp_path: Path) -> None:
    sofa = CategorySpec("sofa", synonyms=("couch", "settee"))
    path = write(tmp_path, "[{name: sofa, synonyms: [couch, settee]}]")
    assert load_vocabulary(path) == Vocabulary.from_specs([sofa])
    dump_vocabulary(load_vocabulary(path), path)
    assert load_vocabulary(path) == Vocabulary.from_specs([sofa])


EXAMPLES = """\
- red
- name: my mug
  examples_only: true
  examples:
  - {image: sub/a.png, box: [1, 2, 3, 4]}
  - {image: sub/a.png, mask: mask.png, negative: true}
  - {image: sub/a.png, points: [[1, 2], [3, 4]]}
"""


def test_examples_are_read_and_written(tmp_path: Path) -> None:
    image, mask = tmp_path / "sub" / "a.png", tmp_path / "mask.png"
    image.parent.mkdir()
    for path in (image, mask):
        path.write_bytes(b"")
    examples = (
        Example(image, box=(1, 2, 3, 4)),
        Example(image, mask=mask, negative=True),
        Example(image, points=((1, 2), (3, 4))),
    )
    expected = Vocabulary.from_specs(["red", CategorySpec("my mug", examples=examples, examples_only=True)])
    path = write(tmp_path, EXAMPLES)
    assert load_vocabulary(path) == expected
    dump_vocabulary(expected, path)
    assert load_vocabulary(path) == expected
    assert "image: sub/a.png" in path.read_text(encoding="utf-8")


def test_examples_that_are_in_no_file_cannot_be_written(tmp_path: Path) -> None:
    taught = CategorySpec("mug", examples=(Example(b"image", box=(0, 0, 1, 1)),))
    with pytest.raises(VocabularyError, match="examples in files"):
        dump_vocabulary(Vocabulary.from_specs([taught]), tmp_path / "words.yaml")


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ("{image: b.png, box: [0, 0, 1, 1]}", "an image at .*b.png, got no such file"),
        ("{box: [0, 0, 1, 1]}", "the key 'image'"),
        ("a.png", "an example as a mapping with 'image', got 'a.png'"),
        ("{image: a.png}", "one of box, mask and points"),
        ("{image: a.png, box: [0, 0, 1]}", "a box x0, y0, x1, y1 as whole numbers from 0"),
        ("{image: a.png, box: [0, 0, 1, 1.5]}", "a whole number of pixels, got the float 1.5"),
        ("{image: a.png, box: 3}", "a list of the numbers of a box, got the int 3"),
        ("{image: a.png, points: [3, 4]}", "a list of the numbers of a point, got the int 3"),
        ("{image: a.png, mask: b.png}", "a mask at .*b.png, got no such file"),
        ("{image: a.png, box: [0, 0, 1, 1], negative: 1}", "true or false, got the int 1"),
        ("{image: a.png, box: [0, 0, 1, 1], negative: true}", "an example that shows 'mug'"),
        ("{image: a.png, bx: [0, 0, 1, 1]}", "got 'bx'; did you mean 'box'"),
    ],
)
def test_mistakes_in_examples_are_named_with_their_line(tmp_path: Path, example: str, message: str) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    path = write(tmp_path, f"- red\n- {{name: mug, examples: [{example}]}}\n")
    with pytest.raises(VocabularyError, match=f"^{re.escape(str(path))}, line 2: .*{message}"):
        load_vocabulary(path)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_shipped_vocabularies_are_sound(path: Path) -> None:
    vocabulary = load_vocabulary(path)
    assert 25 <= len(vocabulary) <= 60
    assert vocabulary.negatives and lint(vocabulary) == []


def test_all_shipped_vocabularies_are_there() -> None:
    assert [path.stem for path in FILES] == ["home", "office", "street", "warehouse"]


@pytest.mark.parametrize(
    "name", ["office", "office.yaml", str(SHIPPED / "office.yaml"), SHIPPED / "office.yaml"]
)
def test_a_vocabulary_is_found_by_name_or_path(name: Path | str) -> None:
    assert find_vocabulary(name).samefile(SHIPPED / "office.yaml")
    assert load_vocabulary(name) == load_vocabulary(SHIPPED / "office.yaml")


def test_a_file_goes_before_a_shipped_vocabulary_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "office").write_text("[robot]")
    monkeypatch.chdir(tmp_path)
    assert load_vocabulary("office").names == ("robot",)


@pytest.mark.parametrize("name", ["", "ofice", "/no/such/file.yaml", "..", Path("none.yaml")])
def test_a_vocabulary_that_is_not_there_names_those_that_are(name: Path | str) -> None:
    with pytest.raises(VocabularyError, match="one of home, office, street, warehouse, got"):
        load_vocabulary(name)


def test_class_names(tmp_path: Path) -> None:
    path = write(tmp_path, "\ufeffwall\r\nfloor \ntraffic sign\n\n")
    assert load_class_names(path) == ["wall", "floor", "traffic sign"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "got an empty file"), ("\n\n", "got an empty file"), ("a\n\nb\n", "line 2: expected a class name")],
)
def test_class_names_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        load_class_names(write(tmp_path, text))
    with pytest.raises(VocabularyError, match="expected a file that can be read"):
        load_class_names(tmp_path / "none.txt")
