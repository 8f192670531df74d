from pathlib import Path

import pytest

from ovs_ros.vocabulary.category import CategorySpec
from ovs_ros.vocabulary.knowledge import Knowledge, confusions_text, load_knowledge, read_confusions
from ovs_ros.vocabulary.linter import note_knowledge
from ovs_ros.vocabulary.vocabulary import Vocabulary

KNOWN = Knowledge(
    frozenset({"chair", "desk"}),
    frozenset({"dog", "puppy"}),
    {("desk", "table"): 0.4, ("chair", "sofa"): 0.3},
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


def test_a_folder_may_lack_captions_and_confusions(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_knowledge(tmp_path)
    (tmp_path / "seen_words.txt").write_text("Chair\ndesk\n")
    assert load_knowledge(tmp_path) == Knowledge(KNOWN.labels)
    (tmp_path / "caption_words.txt").write_text("dog\npuppy\n")
    (tmp_path / "confusions.tsv").write_text(confusions_text(KNOWN.confusions))
    assert load_knowledge(tmp_path) == KNOWN


def test_a_wrong_line_of_confusions_is_named(tmp_path: Path) -> None:
    path = tmp_path / "confusions.tsv"
    for line in ("desk table 0.4", "desk\ttable\tmuch"):
        path.write_text(f"chair\tsofa\t0.3\n{line}\n")
        with pytest.raises(ValueError, match="confusions.tsv, line 2: expected 'name, other name, share'"):
            read_confusions(path)


def test_notes_tell_what_the_model_knows_of_words() -> None:
    vocabulary = Vocabulary.from_specs(
        ["chair", "puppy", "quasar", "unicorn", "desk", CategorySpec("board", synonyms=("Table",))]
    )
    notes = note_knowledge(vocabulary, KNOWN)
    assert all(note.is_note for note in notes)
    assert [(note.kind, note.names) for note in notes] == [
        ("captions", ("puppy",)),
        ("text only", ("quasar", "unicorn", "board")),
        ("confused", ("desk", "board")),
    ]
    assert "40% of the pixels of 'desk' got 'board'" in notes[2].message


def test_nothing_is_noted_of_a_model_whose_training_is_unknown() -> None:
    assert note_knowledge(Vocabulary.from_names(["quasar"]), Knowledge()) == []
