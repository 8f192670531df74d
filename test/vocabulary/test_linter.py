"""What the linter finds, and what it leaves in peace."""

from dataclasses import replace

import numpy as np
import pytest

from ovs_ros.vocabulary.examples import Example
from ovs_ros.vocabulary.knowledge import Knowledge
from ovs_ros.vocabulary.linter import lint, lint_names, note_knowledge
from ovs_ros.vocabulary.vocabulary import CategorySpec, Vocabulary
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings


def embedded(vocabulary: Vocabulary, angles: list[float]) -> WordEmbeddings:
    """Words as unit vectors in a plane, at angles in degrees: categories first, then negatives."""
    radians = np.deg2rad(np.array(angles, np.float32))
    return WordEmbeddings(vocabulary, np.stack([np.cos(radians), np.sin(radians)], axis=1))


@pytest.mark.parametrize(
    ("names", "negatives", "findings"),
    [
        (["chair", "desk", "office chair"], ["sky"], []),
        (["chair", "", "  "], [], [("empty", ("",)), ("empty", ("  ",))]),
        (["chair"], ["--"], [("empty", ("--",))]),
        (["a" * 50, "b" * 51], [], [("overlong", ("b" * 51,))]),
        (["chair", "desk", " CHAIR "], [], [("duplicate", ("chair", " CHAIR "))]),
        (["a", "a", "a"], [], [("duplicate", ("a", "a")), ("duplicate", ("a", "a"))]),
        (["traffic light", "Traffic-Light"], [], [("duplicate", ("traffic light", "Traffic-Light"))]),
        (["trafficlight", "traffic_light"], [], [("duplicate", ("trafficlight", "traffic_light"))]),
        (["chair"], ["sky", "Sky"], [("duplicate", ("sky", "Sky"))]),
        (["Thing", "thing lamp"], ["stuff"], [("generic", ("Thing",))]),
        (["sky", "desk"], ["Sky"], [("negative", ("sky", "Sky"))]),
    ],
)
def test_names(names: list[str], negatives: list[str], findings: list[tuple[str, tuple[str, ...]]]) -> None:
    assert [(finding.kind, finding.names) for finding in lint_names(names, negatives)] == findings


def test_messages_name_the_words_and_the_remedy() -> None:
    messages = [finding.message for finding in lint_names(["chair", "", "Chair"], ["chair"])]
    assert messages == [
        "category 2 is '', without a letter or a digit; leave it out",
        "'chair' and 'Chair' are one name; leave one out",
        "'chair' is a category and a negative word, so its pixels become unknown; "
        "take it out of one of the two",
    ]


def test_near_synonyms_are_reported_once_with_their_cosine() -> None:
    vocabulary = Vocabulary.from_names(["sofa", "tree", "couch", "car"])
    findings = lint(vocabulary, embedded(vocabulary, [0, 90, 20, 180]))
    assert [(finding.kind, finding.names) for finding in findings] == [("near synonym", ("sofa", "couch"))]
    assert "cosine 0.94" in findings[0].message
    assert lint(vocabulary) == []


@pytest.mark.parametrize(("near", "count"), [(0.95, 0), (0.93, 1), (-1, 2)])
def test_the_limit_of_near_synonyms(near: float, count: int) -> None:
    vocabulary = Vocabulary.from_names(["sofa", "couch", "tree"])
    assert len(lint(vocabulary, embedded(vocabulary, [0, 20, 180]), near)) == count


def test_each_of_a_group_of_synonyms_is_named() -> None:
    vocabulary = Vocabulary.from_names(["sofa", "couch", "settee"])
    findings = lint(vocabulary, embedded(vocabulary, [0, 10, 15]))
    assert {name for finding in findings for name in finding.names} == {"sofa", "couch", "settee"}


def test_a_negative_word_near_a_category() -> None:
    vocabulary = Vocabulary.from_names(["cloud", "tree"], negatives=["grass", "sky"])
    findings = lint(vocabulary, embedded(vocabulary, [0, 90, 200, 5]))
    assert [(finding.kind, finding.names) for finding in findings] == [("negative", ("cloud", "sky"))]


def test_one_name_is_not_its_own_synonym_too() -> None:
    vocabulary = Vocabulary.from_names(["traffic light", "traffic-light"], negatives=["Traffic Light"])
    findings = lint(vocabulary, embedded(vocabulary, [0, 0, 0]))
    assert [finding.kind for finding in findings] == ["duplicate", "negative"]


def test_finds_the_one_pair_among_many_blocks() -> None:
    names = [f"word {i}" for i in range(1500)]
    vectors = np.random.default_rng(0).standard_normal((1501, 64)).astype(np.float32)
    vectors[1400] = vectors[900] + 0.01
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vocabulary = Vocabulary.from_names(names, negatives=["sky"])
    findings = lint(vocabulary, WordEmbeddings(vocabulary, vectors))
    assert [finding.names for finding in findings] == [("word 900", "word 1400")]


def test_one_word_has_no_neighbour() -> None:
    vocabulary = Vocabulary.from_names(["chair"])
    assert lint(vocabulary, embedded(vocabulary, [0]), near=-1) == []


def test_refuses_other_embeddings_and_limits() -> None:
    vocabulary = Vocabulary.from_names(["chair"])
    with pytest.raises(ValueError, match="got those of another"):
        lint(vocabulary.added(["desk"]), embedded(vocabulary, [0]))
    with pytest.raises(ValueError, match="a cosine from -1 to 1"):
        lint(vocabulary, near=90)


def test_a_name_that_does_not_count_may_be_any() -> None:
    mug = CategorySpec("マグ", examples=(Example(b"image", box=(0, 0, 1, 1)),), examples_only=True)
    vocabulary = Vocabulary.from_specs([mug, "chair"])
    assert lint(vocabulary) == []
    knowledge = Knowledge(labels=frozenset({"chair"}))
    assert note_knowledge(vocabulary, knowledge) == []
    named = Vocabulary.from_specs([replace(mug, examples_only=False), "chair"])
    assert [finding.kind for finding in lint(named)] == ["unreadable"]
    assert [note.names for note in note_knowledge(named, knowledge)] == [("マグ",)]
