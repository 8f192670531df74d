"""`ovs vocabulary view` and `labelspace`: fixed values for words, for programs that need them."""

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from ovs_ros.cli.common import say, user_errors
from ovs_ros.runtime.files import write_atomically
from ovs_ros.runtime.quoting import quoted
from ovs_ros.vocabulary.label_view import REST, UNKNOWN, LabelView, check_file_name, load_view
from ovs_ros.vocabulary.vocabulary import VocabularyError
from ovs_ros.vocabulary.yaml_io import load_vocabulary

MOST_WORDS = 254
"""That a view can tell apart beside unknown and the rest."""

OutputFile = Annotated[Path, typer.Option("--output", help="The file to write.")]
_CLASSES = "separated by commas"


@user_errors()
def view_command(
    file: Annotated[
        str, typer.Argument(metavar="VOCABULARY", help="A YAML file, or home, office, street or warehouse.")
    ],
    output: OutputFile,
) -> None:
    """Write a label view that gives each word of a vocabulary a value of its own.

    Exits with 2 when the vocabulary cannot be used or has more than 254 words.
    """
    check_file_name(output)
    names = load_vocabulary(file).names
    if len(names) > MOST_WORDS:
        raise VocabularyError(
            f"expected at most {MOST_WORDS} words, got {len(names)}; put several words into one class by hand"
        )
    classes = [
        {"name": name if name not in (UNKNOWN, REST) else f"the {name}", "value": value, "words": [name]}
        for value, name in enumerate(names, 2)
    ]
    document = {UNKNOWN: 0, REST: 1, "classes": classes}
    _write(output, document)
    say(f"{output}: {len(names)} words with values from 2; unknown is 0, the rest 1")


@user_errors()
def labelspace_command(
    file: Annotated[str, typer.Argument(metavar="VIEW", help="A label view: a YAML file, nav2 or nvblox.")],
    output: OutputFile,
    dynamic: Annotated[str, typer.Option(help=f"Classes that move, {_CLASSES}.")] = "",
    surface: Annotated[str, typer.Option(help=f"Classes that robots drive on, {_CLASSES}.")] = "",
    objects: Annotated[str, typer.Option("--object", help=f"Classes that are objects, {_CLASSES}.")] = "",
) -> None:
    """Write the label space of Hydra for a label view. Its invalid labels are unknown and the rest.

    Exits with 2 when the view cannot be used, or has none of a class that is named.
    """
    view = load_view(file)
    names: dict[int, str] = {}
    for value, name in view.class_map:
        names.setdefault(value, name)
    document = {
        "total_semantic_labels": max(names) + 1,
        "dynamic_labels": _values(view, dynamic, "--dynamic"),
        "invalid_labels": sorted({view.unknown, view.rest}),
        "object_labels": _values(view, objects, "--object"),
        "surface_places_labels": _values(view, surface, "--surface"),
        "label_names": [{"label": value, "name": names[value]} for value in sorted(names)],
    }
    _write(output, document)
    say(f"{output}: {len(names)} labels")


def _values(view: LabelView, given: str, flag: str) -> list[int]:
    values = set()
    for name in filter(None, (part.strip() for part in given.split(","))):
        if name not in view.classes:
            raise VocabularyError(
                f"expected classes of the view '{view.name}' for {flag}, got {quoted(name)}; it has "
                f"{', '.join(view.classes)}"
            )
        values.add(view.classes[name])
    return sorted(values)


def _write(path: Path, document: dict[str, Any]) -> None:
    text = yaml.safe_dump(document, allow_unicode=True, sort_keys=False)
    write_atomically(path, text.encode())
