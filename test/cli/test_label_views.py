"""`ovs vocabulary view` and `ovs vocabulary labelspace`."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from ovs_ros.cli.vocabulary import app
from ovs_ros.vocabulary.label_view import load_view
from ovs_ros.vocabulary.yaml_io import load_vocabulary


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_view_of_a_vocabulary_tells_all_its_words_apart(tmp_path: Path) -> None:
    file = tmp_path / "office_view.yaml"
    assert run("view", "office", "--output", file).exit_code == 0
    view, vocabulary = load_view(file), load_vocabulary("office")
    values = view.table(vocabulary)[vocabulary.ids].tolist()
    assert values == list(range(2, 2 + len(vocabulary))) and (view.unknown, view.rest) == (0, 1)


def test_words_that_are_names_of_a_view_stay_words(tmp_path: Path) -> None:
    (tmp_path / "words.yaml").write_text("[unknown, rest, red]")
    assert run("view", tmp_path / "words.yaml", "--output", tmp_path / "mine.yaml").exit_code == 0
    assert dict(load_view(tmp_path / "mine.yaml").values) == {"unknown": 2, "rest": 3, "red": 4}


def test_the_label_space_has_what_hydra_reads(tmp_path: Path) -> None:
    view, space = tmp_path / "mine.yaml", tmp_path / "space.yaml"
    (tmp_path / "words.yaml").write_text("[person, floor, desk, office chair]")
    run("view", tmp_path / "words.yaml", "--output", view)
    options = ("--dynamic", "person", "--surface", "floor", "--object", "office chair, desk")
    assert run("labelspace", view, "--output", space, *options).exit_code == 0
    assert yaml.safe_load(space.read_text()) == {
        "total_semantic_labels": 6,
        "dynamic_labels": [2],
        "invalid_labels": [0, 1],
        "object_labels": [4, 5],
        "surface_places_labels": [3],
        "label_names": [
            {"label": value, "name": name}
            for value, name in enumerate(["unknown", "rest", "person", "floor", "desk", "office chair"])
        ],
    }


def test_several_classes_of_one_value_are_one_label(tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    assert run("labelspace", "nvblox", "--output", space, "--dynamic", "person, animal").exit_code == 0
    document = yaml.safe_load(space.read_text())
    assert document["label_names"][0] == {"label": 0, "name": "unknown"}
    assert (document["invalid_labels"], document["dynamic_labels"]) == ([0], [1, 3])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("view", "ofice", "--output", "a.yaml"), "ofice"),
        (("view", "office", "--output", "My View.yaml"), "named with small letters"),
        (("labelspace", "nav3", "--output", "a.yaml"), "one of cost, nav2, nvblox"),
        (("labelspace", "nav2", "--output", "a.yaml", "--object", "desk"), "for --object, got 'desk'"),
    ],
)
def test_mistakes_end_with_one_line_and_no_file(tmp_path, monkeypatch, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    result = run(*arguments)
    assert result.exit_code == 2 and message in result.output and list(tmp_path.iterdir()) == []


def test_more_words_than_values_are_refused(tmp_path: Path) -> None:
    (tmp_path / "words.yaml").write_text(yaml.safe_dump([f"word {i}" for i in range(255)]))
    result = run("view", tmp_path / "words.yaml", "--output", tmp_path / "mine.yaml")
    assert result.exit_code == 2 and "at most 254 words, got 255" in result.output
