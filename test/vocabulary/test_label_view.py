"""Label views: what a file says is what the table does, and no file that is there instead does harm."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_ros.vocabulary.label_view import SHIPPED, load_view, load_views
from ovs_ros.vocabulary.vocabulary import Vocabulary, VocabularyError
from ovs_ros.vocabulary.yaml_io import load_vocabulary

FILE = """
unknown: 9
rest: 1
classes:
  - {name: ground, value: 2, words: [floor, Carpet]}
  - {name: person, value: 200}
"""


def view_of(folder: Path, text: str = FILE, name: str = "mine.yaml"):
    (folder / name).write_text(text)
    return load_view(folder / name)


def test_names_get_their_values_whatever_their_ids(tmp_path: Path) -> None:
    view = view_of(tmp_path)
    first = Vocabulary.from_names(["wall", "CARPET", "person"])
    for vocabulary in (first, first.replaced(["person", "new", "carpet", "floor"])):
        table = view.table(vocabulary)
        got = dict(zip(vocabulary.names, table[vocabulary.ids].tolist(), strict=True))
        wanted = {"wall": 1, "new": 1, "CARPET": 2, "carpet": 2, "floor": 2, "person": 200}
        assert got == {name: wanted[name] for name in vocabulary.names}
        assert (table.shape, table.dtype, table[255]) == ((256,), np.uint8, 9)
    assert view.class_map == ((9, "unknown"), (1, "rest"), (2, "ground"), (200, "person"))
    assert view.name == "mine"


@given(st.lists(st.sampled_from(range(2000)), min_size=1, max_size=400, unique=True))
def test_only_names_decide(numbers: list[int]) -> None:
    view = load_view("nvblox")
    names = [f"word {i}" for i in numbers] + ["person"]
    vocabulary = Vocabulary.from_names([str(i) for i in range(100)]).replaced(names)
    table = view.table(vocabulary)
    assert len(table) == (65536 if vocabulary.wide else 256)
    assert table[vocabulary.unknown_id] == 0 and np.flatnonzero(table).tolist() == [vocabulary.ids[-1]]


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED.glob("*.yaml")))
def test_shipped_views_can_be_read(name: str) -> None:
    view = load_view(name)
    assert [label for _, label in view.class_map][:2] == ["unknown", "rest"]


def test_what_the_shipped_views_make_of_the_shipped_words() -> None:
    nav2, nvblox, cost = load_views(["nav2", "", "nvblox", "cost"])
    movers = {"person", "cat", "dog", "cyclist", "car", "forklift", "mobile robot", "stroller"}
    words = {
        name for site in ("home", "office", "street", "warehouse") for name in load_vocabulary(site).names
    }
    assert movers <= words
    for word in movers:
        assert nvblox.values[word] > 0 and nav2.values[word] == nav2.classes["mover"]
        assert word not in cost.values
    for word in words - movers:
        assert (nvblox.values.get(word, nvblox.rest) > 0) == (nav2.values.get(word) == nav2.classes["mover"])
    for word in ("floor", "carpet", "sidewalk", "road", "ramp"):
        assert nav2.values[word] == nav2.classes["ground"] and cost.values[word] < 60
    assert nav2.values["stairs"] == nav2.classes["danger"]
    assert nvblox.unknown == nvblox.rest == 0 and nav2.unknown != nav2.rest
    assert max(cost.values.values()) < cost.rest == 254 and cost.unknown == 128


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("unknown: 9", "", "expected the key 'unknown', got none"),
        ("unknown: 9", "unknwon: 9", "line 2: expected one of the keys .* did you mean 'unknown'"),
        ("unknown: 9", "unknown: 256", "line 2: expected a whole number from 0 to 255"),
        ("unknown: 9", "unknown: -1", "0 to 255"),
        ("unknown: 9", "unknown: 1.5", "0 to 255"),
        ("unknown: 9", "unknown: true", "0 to 255"),
        ("unknown: 9", "unknown: [9]", "0 to 255, got a list"),
        ("value: 200", "value: !!int x", "0 to 255"),
        ("value: 200", "worth: 200", "did you mean"),
        ("name: ground", "name: rest", "line 5: expected another name for a class"),
        ("name: person", "name: ground", "line 6: expected another name for a class"),
        ("words: [floor", "words: [person", "line 6: expected each word once"),
        ("Carpet", "' FLOOR'", "line 5: expected each word once"),
        ("Carpet", "''", "line 5: expected a class name with a letter"),
        ("Carpet", "2", "expected a word as text"),
        ("words: [floor, Carpet]", "words: floor", "expected a list of words"),
        ("{name: ground, value: 2,", "{value: 2,", "expected the key 'name'"),
        ("{name: person, value: 200}", "person", "expected a class as a mapping"),
        (FILE, "", "an empty file"),
        (FILE, "[floor]", "expected a mapping with 'unknown'"),
        (FILE, "{", "expected YAML"),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(VocabularyError, match=message) as refused:
        view_of(tmp_path, FILE.replace(old, new))
    assert str(tmp_path / "mine.yaml") in str(refused.value)


def test_a_file_that_is_not_there_or_cannot_name_a_topic_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match="a YAML file or one of cost, nav2, nvblox, got 'nav3'"):
        load_view("nav3")
    for name in ("my view.yaml", "2d.yaml", "a__b.yaml", "a_.yaml", "A.yaml"):
        with pytest.raises(VocabularyError, match="named with small letters"):
            view_of(tmp_path, name=name)
    (tmp_path / "nav2.yaml").write_text(FILE)
    with pytest.raises(VocabularyError, match="different names, got 'nav2' twice"):
        load_views(["nav2", str(tmp_path / "nav2.yaml")])
