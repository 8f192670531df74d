"""Label views: label images for programs that want values of their own, which no change of words moves.

A view is a YAML file::

    unknown: 0           # of pixels without a name
    rest: 1              # of every word that is in no class
    classes:
      - {name: ground, value: 2, words: [floor, carpet]}
      - {name: person, value: 3}    # its own name is its only word

Values are whole numbers from 0 to 255; several classes may have the same.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from ovs_ros.runtime.quoting import quoted
from ovs_ros.vocabulary.category import VocabularyError, checked_name, name_key
from ovs_ros.vocabulary.vocabulary import Vocabulary
from ovs_ros.vocabulary.yaml_io import Form, described

SHIPPED = Path(__file__).parent / "views"
UNKNOWN, REST = "unknown", "rest"
_FILE_KEYS = (UNKNOWN, REST, "classes")
_CLASS_KEYS = ("name", "value", "words")
_EXAMPLES = "the guide on label views"
_NAME = re.compile(r"[a-z](_?[a-z0-9])*")
_INT = "tag:yaml.org,2002:int"


@dataclass(frozen=True)
class LabelView:
    """What value each name has in a label image of 8 bits.

    Attributes:
        name: of the view: a part of a topic's name.
        unknown: the value of pixels without a name.
        rest: the value of words that are in no class.
        classes: name of each class -> its value, in the file's order.
        values: key (see `name_key`) of each word in a class -> its value.
    """

    name: str
    unknown: int
    rest: int
    classes: Mapping[str, int]
    values: Mapping[str, int]

    @property
    def class_map(self) -> tuple[tuple[int, str], ...]:
        """Value and name of each class, of 'unknown' and of 'rest'. It depends on no vocabulary."""
        named = ((value, name) for name, value in self.classes.items())
        return (self.unknown, UNKNOWN), (self.rest, REST), *named

    def table(self, vocabulary: Vocabulary) -> NDArray[np.uint8]:
        """The value of each pixel value of a vocabulary's label images: (256,), or (65536,) if it is wide."""
        table = np.full(65536 if vocabulary.wide else 256, self.unknown, np.uint8)
        table[vocabulary.ids] = [self.values.get(name_key(name), self.rest) for name in vocabulary.names]
        return table


def load_views(names: Iterable[str]) -> tuple[LabelView, ...]:
    """Read views, each from its file. Empty names are left out.

    Raises:
        VocabularyError: as `load_view`, or two views have one name.
    """
    views = tuple(load_view(name) for name in names if name)
    for place, view in enumerate(views):
        if any(view.name == other.name for other in views[:place]):
            raise VocabularyError(
                f"expected views with different names, got '{view.name}' twice; a view's name is its file's, "
                "rename one"
            )
    return views


def load_view(name: Path | str) -> LabelView:
    """Read a view from its file, whose name is the view's.

    Args:
        name: a path, or the name of a shipped view (cost, nav2, nvblox).

    Raises:
        VocabularyError: there is no such file, or it holds something else; the message names file and line.
    """
    for path in (Path(name).expanduser(), SHIPPED / f"{name}.yaml"):
        if str(name) and path.is_file():
            break
    else:
        known = ", ".join(sorted(path.stem for path in SHIPPED.glob("*.yaml")))
        raise VocabularyError(f"expected a view to be a YAML file or one of {known}, got {quoted(str(name))}")
    check_file_name(path)
    form = Form(path, _EXAMPLES)
    root = form.compose()
    if root is None:
        raise VocabularyError(f"{path}: expected a view, got an empty file; see {_EXAMPLES}")
    given = form.fields(root, "a mapping with 'unknown', 'rest' and 'classes'", _FILE_KEYS)
    for key in _FILE_KEYS:
        if key not in given:
            raise form.error(root, f"the key '{key}'", "none", f"see {_EXAMPLES}")
    classes, values = _read_classes(form, given["classes"])
    return LabelView(path.stem, _value(form, given[UNKNOWN]), _value(form, given[REST]), classes, values)


def check_file_name(path: Path) -> None:
    """Refuse a view's file whose name cannot be a part of a topic's.

    Raises:
        VocabularyError: it cannot.
    """
    if not _NAME.fullmatch(path.stem):
        raise VocabularyError(
            "expected the file of a view to be named with small letters, digits and single '_', for the "
            f"topics, got {quoted(path.name)}; rename it"
        )


def _read_classes(form: Form, node: yaml.Node) -> tuple[dict[str, int], dict[str, int]]:
    """The values of classes, by their names, and of words, by their keys."""
    classes: dict[str, int] = {}
    values: dict[str, int] = {}
    for item in form.items(node, "classes"):
        given = form.fields(item, "a class as a mapping with 'name' and 'value'", _CLASS_KEYS)
        for key in ("name", "value"):
            if key not in given:
                raise form.error(item, f"the key '{key}'", "a class without it", "add it")
        name = form.text(given["name"], "the name of a class")
        if name in (UNKNOWN, REST) or name in classes:
            again = f"{quoted(name)} again"
            raise form.error(given["name"], "another name for a class", again, "choose another")
        value = classes[name] = _value(form, given["value"])
        for word in form.items(given["words"], "words") if "words" in given else [given["name"]]:
            key = name_key(_word(form, word))
            if key in values:
                raise form.error(word, "each word once", f"'{word.value}' again", "leave one out")
            values[key] = value
    return classes, values


def _word(form: Form, node: yaml.Node) -> str:
    try:
        return checked_name(form.text(node, "a word"), "class")
    except VocabularyError as error:
        if str(error).startswith(str(form.path)):
            raise
        raise VocabularyError(f"{form.path}, line {node.start_mark.line + 1}: {error}") from error


def _value(form: Form, node: yaml.Node) -> int:
    if isinstance(node, yaml.ScalarNode) and node.tag == _INT and len(node.value) < 100:
        value = yaml.safe_load(node.value)
        if isinstance(value, int) and 0 <= value <= 255:
            return value
    raise form.error(node, "a whole number from 0 to 255", described(node), "a view has 8 bits a pixel")
