from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import ColorTextEncoder

from ovs_ros.encoders.embedded import MODELS
from ovs_ros.vocabulary.category import CategorySpec
from ovs_ros.vocabulary.knowledge import Knowledge, confusions_text, load_knowledge, read_confusions
from ovs_ros.vocabulary.linter import note_knowledge
from ovs_ros.vocabulary.prompts import embed
from ovs_ros.vocabulary.vocabulary import Vocabulary

KNOWN = Knowledge(
    frozenset({"chair", "desk"}),
    frozenset({"dog", "puppy"}),
    {("desk", "table"): 0.4, ("chair", "sofa"): 0.3},
    {"settee": "sofa", "desk": "table"},
)


@pytest.mark.parametrize(
    ("category", "shown"),
    [
        (CategorySpec("Chair"), "labels"),
        (CategorySpec("chairs"), "labels"),
        (CategorySpec("puppies"), "captions"),
        (CategorySpec("quasar"), "text"),
        (CategorySpec("stool", synonyms=("chair",)), "labels"),
        (CategorySpec("hound", synonyms=("dog",)), "captions"),
    ],
)
def test_the_most_that_was_shown_counts(category: CategorySpec, shown: str) -> None:
    assert KNOWN.shown(category) == shown


def test_a_folder_may_lack_all_but_labels(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_knowledge(tmp_path)
    (tmp_path / "seen_words.txt").write_text("Chair\ndesk\n")
    kinds = load_knowledge(tmp_path).kinds
    assert load_knowledge(tmp_path) == Knowledge(KNOWN.labels, kinds=kinds)
    (tmp_path / "caption_words.txt").write_text("dog\npuppy\n")
    (tmp_path / "confusions.tsv").write_text(confusions_text(KNOWN.confusions))
    assert load_knowledge(tmp_path) == replace(KNOWN, kinds=kinds)


def test_a_wrong_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "confusions.tsv"
    path.write_text("chair\tsofa\t0.3\ndesk table 0.4\n")
    with pytest.raises(ValueError, match="confusions.tsv, line 2: expected 'name, other name, share'"):
        read_confusions(path)


def test_a_rare_word_is_said_as_its_kind_too() -> None:
    def spoken(spec: CategorySpec | str, *others: str) -> list[str]:
        encoder = ColorTextEncoder()
        embed(Vocabulary.from_specs([spec, *others]), encoder, knowledge=KNOWN)
        return [text for text in encoder.encoded if not text.startswith("a photo of") and text not in others]

    assert spoken("Settees") == ["Settees", "sofa"]
    assert spoken("bench") == ["bench"]
    assert spoken("desk") == ["desk"]  # Pixels were labelled so.
    assert spoken("settee", "sofa") == ["settee"]  # Both would share pixels.
    assert spoken(CategorySpec("settee", ("a {}",))) == ["a settee"]
    assert spoken(CategorySpec("settee", synonyms=("couch",))) == ["settee", "couch"]
    mean = embed(Vocabulary.from_specs([CategorySpec("settee", synonyms=("sofa",))]), ColorTextEncoder())
    kind = embed(Vocabulary.from_names(["settee"]), ColorTextEncoder(), knowledge=KNOWN)
    np.testing.assert_array_equal(kind.embeddings, mean.embeddings)


def test_shipped_kinds_are_of_rare_words_and_sound() -> None:
    known = load_knowledge(MODELS)
    assert known.kinds["settee"] == "sofa"
    for word, kind in known.kinds.items():
        assert word != kind and kind not in known.kinds
        assert CategorySpec(word).name == word and CategorySpec(kind).name == kind


def test_notes_tell_what_the_model_knows_of_words() -> None:
    vocabulary = Vocabulary.from_specs(
        ["chair", "puppy", "quasar", "unicorn", "desk", "settee", CategorySpec("board", synonyms=("Table",))]
    )
    notes = note_knowledge(vocabulary, KNOWN)
    assert all(note.is_note for note in notes)
    assert [(note.kind, note.names) for note in notes] == [
        ("captions", ("puppy",)),
        ("text only", ("quasar", "unicorn", "board")),
        ("kind", ("settee",)),
        ("confused", ("desk", "board")),
    ]
    assert "40% of the pixels of 'desk' got 'board'" in notes[3].message


def test_a_kind_is_not_noted_beside_its_own_word() -> None:
    notes = note_knowledge(Vocabulary.from_names(["settee", "sofa"]), KNOWN)
    assert [(note.kind, note.names) for note in notes] == [("text only", ("settee", "sofa"))]


def test_nothing_is_noted_of_a_model_whose_training_is_unknown() -> None:
    assert note_knowledge(Vocabulary.from_names(["quasar"]), Knowledge()) == []
