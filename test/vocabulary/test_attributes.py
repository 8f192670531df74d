"""Attributes of categories: the shipped file, its form, and how a user's file is laid over it."""

from pathlib import Path

import pytest
import yaml

from ovs_ros.vocabulary import yaml_io
from ovs_ros.vocabulary.attributes import (
    SHIPPED,
    Attributes,
    CategoryAttributes,
    load_attributes,
    read_attributes,
)
from ovs_ros.vocabulary.category import MAX_PROMPT_LENGTH, VocabularyError

NYUV2 = (
    "wall,floor,cabinet,bed,chair,sofa,table,door,window,bookshelf,picture,counter,blinds,desk,shelves,"
    "curtain,dresser,pillow,mirror,floor mat,clothes,ceiling,books,refrigerator,television,paper,towel,"
    "shower curtain,box,whiteboard,person,night stand,toilet,sink,lamp,bathtub,bag"
)
CAMVID = "sky,building,pole,road,sidewalk,tree,traffic sign,fence,car,pedestrian,bicyclist"


@pytest.fixture(scope="module")
def shipped() -> Attributes:
    return read_attributes(SHIPPED)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_file_says_colour_shape_and_texture_of_many_categories(shipped: Attributes) -> None:
    assert len(shipped.entries) >= 500
    for entry in shipped.entries:
        assert entry.color and entry.shape and entry.texture, entry.name
    prompts = Attributes(shipped.entries, 0.5)
    assert max(len(text) for e in shipped.entries for text in prompts.texts(e.name)) <= MAX_PROMPT_LENGTH


@pytest.mark.parametrize("file", sorted(yaml_io.SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_file_knows_the_shipped_vocabularies(shipped: Attributes, file: Path) -> None:
    entries = yaml.safe_load(file.read_text())["categories"]
    names = [entry if isinstance(entry, str) else entry["name"] for entry in entries]
    assert [name for name in names if shipped.find(name) is None] == []


def test_the_shipped_file_knows_the_classes_that_figures_are_given_for(shipped: Attributes) -> None:
    names = f"{NYUV2},{CAMVID}".split(",")
    assert len(names) == 48
    assert [name for name in names if shipped.find(name) is None] == []


@pytest.mark.parametrize("name", ["sofa", "Sofa", "couch", "COUCHES", "settees", " sofa "])
def test_names_are_found_in_any_form(name: str) -> None:
    entry = CategoryAttributes("sofa", color="grey", synonyms=("couch", "settee"))
    assert Attributes([entry]).find(name) is entry


def test_hyphens_endings_and_what_is_not_there() -> None:
    berry, scooter, glass = (CategoryAttributes(n, color="red") for n in ("berry", "e-scooter", "glass"))
    known = Attributes([berry, scooter, glass])
    assert known.find("berries") is berry
    assert known.find("E_scooters") is scooter
    assert known.find("glasses") is glass
    assert known.find("bus") is None and known.find("") is None


def test_a_name_counts_before_a_synonym() -> None:
    mouse, cat = CategoryAttributes("mouse", synonyms=("cat",)), CategoryAttributes("cat", color="grey")
    assert Attributes([mouse, cat]).find("cat") is cat


def test_a_users_file_is_laid_over_the_shipped_one(tmp_path: Path, shipped: Attributes) -> None:
    file = write(
        tmp_path / "mine.yaml",
        "chair:\n  color: bright pink\n  synonyms: [throne]\nflux compensator: {shape: three glowing arms}\n",
    )
    mine = load_attributes(str(file))
    assert mine is not None
    chair, before = mine.find("throne"), shipped.find("chair")
    assert chair is not None and before is not None
    assert chair.color == "bright pink" and chair.texture == before.texture and "seat" in chair.synonyms
    assert mine.find("flux compensators") == CategoryAttributes(
        "flux compensator", shape="three glowing arms"
    )
    assert len(mine.entries) == len(shipped.entries) + 1


def test_settings() -> None:
    assert load_attributes("off") is None
    assert load_attributes("shipped") is not None
    with pytest.raises(VocabularyError, match="got 'shiped', which is none of them; did you mean 'shipped'"):
        load_attributes("shiped")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected categories with attributes, got an empty file"),
        ("- chair\n", "line 1: expected a mapping of categories, got a list"),
        ("chair: red\n", "line 1: expected a mapping with color, .* for 'chair', got 'red'"),
        ("chair:\n  colour: red\n", "line 2: .*'colour'; did you mean 'color'"),
        ("chair:\n  color: 3\n", "line 2: expected color of 'chair' as text, got the int 3"),
        ("chair:\n  color: [red]\n", "line 2: expected color of 'chair' as text, got a list"),
        ("chair:\n  color: ' '\n", "a phrase for color of 'chair' with a letter"),
        (
            f"chair:\n  color: {'red ' * 40}\n",
            "a phrase for color of 'chair' of at most 120 characters, got 159",
        ),
        ("chair:\n  color: red\n  color: blue\n", "line 3: expected the key 'color' once"),
        ("chair:\n  synonyms: seat\n", "expected a list of synonyms for 'chair'"),
        ("chair: {}\n", "expected attributes for 'chair', got none"),
        ("chair: {color: red}\nseat: {color: red}\nChair: {color: red}\n", "line 3: .* again after line 1"),
        ("chair: {color: red, synonyms: [seat]}\nseat: {color: red}\n", "'seat' again after line 1"),
        ("'!': {color: red}\n", "line 1: expected a category name with a letter"),
        ("chair: {color: red, synonyms: ['!']}\n", "line 1: expected a synonym with a letter"),
        ("chair: {color: 'red\n", "expected YAML, got a mistake"),
    ],
)
def test_files_of_another_form_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        read_attributes(write(tmp_path / "a.yaml", text))
