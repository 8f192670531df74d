"""Vocabularies as files that people write: YAML, and plain lists of class names.

A YAML vocabulary is a list of names, or a mapping::

    categories: [person, {name: sofa, synonyms: [couch]}, {name: desk, prompts: ["a desk"], threshold: 0.3}]
    negatives: [sky, shadow]
"""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ovs_ros.vocabulary.vocabulary import CategorySpec, Vocabulary, VocabularyError, name_key

SHIPPED = Path(__file__).parent / "shipped"
_FILE_KEYS = ("categories", "negatives")
_CATEGORY_KEYS = ("name", "prompts", "threshold", "synonyms")
_EXAMPLES = "the shipped vocabularies (ovs vocabulary show office)"
_TEXT = "tag:yaml.org,2002:str"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class Entry(NamedTuple):
    """A category as it stands in a file, before anything but its types is checked."""

    line: int
    name: str
    prompts: tuple[str, ...] = ()
    threshold: float | None = None
    synonyms: tuple[str, ...] = ()


def find_vocabulary(name: Path | str) -> Path:
    """The file of a vocabulary.

    Args:
        name: a path, or the name of a shipped vocabulary, with or without '.yaml'.

    Raises:
        VocabularyError: there is no such file.
    """
    for path in (Path(name).expanduser(), SHIPPED / name, SHIPPED / f"{name}.yaml"):
        if str(name) and path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in SHIPPED.glob("*.yaml")))
    raise VocabularyError(
        f"expected the vocabulary to be a YAML file or one of {known}, got '{name}', which is neither"
    )


def load_vocabulary(name: Path | str) -> Vocabulary:
    """Read a vocabulary from a YAML file.

    Args:
        name: a path, or the name of a shipped vocabulary (home, office, street, warehouse).

    Raises:
        VocabularyError: the file is not there or cannot be read, is no YAML, has another form, or holds words
            that cannot be; the message names the file and, where there is one, the line.
    """
    path = find_vocabulary(name)
    entries, negatives = read_draft(path)
    specs = []
    lines: dict[str, int] = {}
    for entry in entries:
        try:
            specs.append(CategorySpec(*entry[1:]))
        except VocabularyError as error:
            raise VocabularyError(f"{path}, line {entry.line}: {error}") from error
        key = name_key(entry.name)
        if key in lines:
            raise VocabularyError(
                f"{path}, line {entry.line}: expected each category once, got '{entry.name}' again after "
                f"line {lines[key]}; leave one out"
            )
        lines[key] = entry.line
    try:
        return Vocabulary.from_specs(specs, negatives)
    except VocabularyError as error:
        raise VocabularyError(f"{path}: {error}") from error


def read_draft(path: Path | str) -> tuple[tuple[Entry, ...], tuple[str, ...]]:
    """Read categories and negative words of a YAML file unchecked, as a linter needs them.

    Raises:
        VocabularyError: the file cannot be read, is no YAML, or has another form.
    """
    form = Form(path, _EXAMPLES)
    root = form.compose()
    if root is None:
        raise VocabularyError(f"{path}: expected a list of categories, got an empty file; name some")
    if isinstance(root, yaml.SequenceNode):
        return form.entries(root), ()
    fields = form.fields(root, "a list of names, or 'categories' and 'negatives'", _FILE_KEYS)
    if "categories" not in fields:
        raise form.error(root, "the key 'categories'", "none", "add it with a list of names")
    negatives = form.texts(fields["negatives"], "negative words") if "negatives" in fields else ()
    return form.entries(fields["categories"]), negatives


def dump_vocabulary(vocabulary: Vocabulary, path: Path | str) -> None:
    """Write a vocabulary's words to a YAML file that `load_vocabulary` reads.

    Ids, version and history are not written: a loaded vocabulary starts with version 1 and ids from 0.

    Raises:
        OSError: the file cannot be written.
    """
    categories: list[Any] = []
    for category in vocabulary.categories:
        entry: dict[str, Any] = {"name": category.name}
        if category.prompts:
            entry["prompts"] = list(category.prompts)
        if category.threshold is not None:
            entry["threshold"] = category.threshold
        if category.synonyms:
            entry["synonyms"] = list(category.synonyms)
        categories.append(entry if len(entry) > 1 else category.name)
    document: dict[str, Any] = {"categories": categories}
    if vocabulary.negatives:
        document["negatives"] = list(vocabulary.negatives)
    text = yaml.safe_dump(document, allow_unicode=True, sort_keys=False, default_flow_style=False)
    Path(path).write_text(text, encoding="utf-8")


def load_class_names(path: Path | str) -> list[str]:
    """Read a class file: one name a line, UTF-8; a name's id is its line number from 0.

    Raises:
        VocabularyError: the file cannot be read, is empty, or has a line without a name.
    """
    lines = _read(path).rstrip().splitlines()
    if not lines:
        raise VocabularyError(f"{path}: expected one class name a line, got an empty file")
    names = [line.strip() for line in lines]
    for number, name in enumerate(names, 1):
        if not name:
            raise VocabularyError(
                f"{path}, line {number}: expected a class name, got an empty line; "
                "an id is the number of a line, so name the class rather than drop the line"
            )
    return names


def _read(path: Path | str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise VocabularyError(
            f"{path}: expected a file that can be read, got: {error.strerror}; check the path"
        ) from error
    except UnicodeDecodeError as error:
        raise VocabularyError(
            f"{path}: expected UTF-8 text, got the byte {error.object[error.start]:#04x} at {error.start}; "
            "save the file as UTF-8"
        ) from error


class Form:
    """Reads the nodes of one YAML file, and says file and line where one is of another kind than expected.

    Args:
        path: the file.
        examples: where files of this kind are to be seen, for messages.
    """

    def __init__(self, path: Path | str, examples: str) -> None:
        self.path = path
        self._examples = examples

    def compose(self) -> yaml.Node | None:
        """The file's root; None where it is empty.

        Raises:
            VocabularyError: the file cannot be read, or is no YAML.
        """
        text = _read(self.path)
        try:
            return yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = f", line {mark.line + 1}" if mark else ""
            raise VocabularyError(
                f"{self.path}{where}: expected YAML, got a mistake: {error.problem or error.context}; "
                "mend it there"
            ) from error
        # The last two: PyYAML lets out what Python says of an escape such as "\UFFFFFFFF".
        except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:
            raise VocabularyError(
                f"{self.path}: expected YAML, got text that is none ({str(error).splitlines()[0]}); see "
                f"{self._examples}"
            ) from error

    def error(self, node: yaml.Node, expected: str, got: str, remedy: str) -> VocabularyError:
        """What to raise about a node."""
        line = node.start_mark.line + 1
        return VocabularyError(f"{self.path}, line {line}: expected {expected}, got {got}; {remedy}")

    def entries(self, node: yaml.Node) -> tuple[Entry, ...]:
        """A list of categories."""
        return tuple(self._entry(item) for item in self._items(node, "categories"))

    def texts(self, node: yaml.Node, what: str) -> tuple[str, ...]:
        """A list of texts, called `what` in messages."""
        return tuple(self.text(item, what) for item in self._items(node, what))

    def fields(self, node: yaml.Node, expected: str, keys: tuple[str, ...]) -> dict[str, yaml.Node]:
        """The values of a mapping that may hold these keys, each at most once."""
        if not isinstance(node, yaml.MappingNode):
            raise self.error(node, expected, described(node), f"see {self._examples}")
        fields: dict[str, yaml.Node] = {}
        for key_node, value in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else ""
            if key not in keys:
                near = difflib.get_close_matches(key, keys, n=1, cutoff=0)[0]
                remedy = f"did you mean '{near}'?"
                raise self.error(key_node, f"one of the keys {_listed(keys)}", described(key_node), remedy)
            if key in fields:
                raise self.error(key_node, f"the key '{key}' once", "it again", "put both into one")
            fields[key] = value
        return fields

    def _entry(self, node: yaml.Node) -> Entry:
        line = node.start_mark.line + 1
        if isinstance(node, yaml.ScalarNode):
            return Entry(line, self.text(node, "a category name"))
        fields = self.fields(node, "a name or a mapping with 'name'", _CATEGORY_KEYS)
        if "name" not in fields:
            raise self.error(node, "the key 'name'", "a category without it", "name the category")
        return Entry(
            line,
            self.text(fields["name"], "a category name"),
            self.texts(fields["prompts"], "prompts") if "prompts" in fields else (),
            self._number(fields["threshold"]) if "threshold" in fields else None,
            self.texts(fields["synonyms"], "synonyms") if "synonyms" in fields else (),
        )

    def _items(self, node: yaml.Node, what: str) -> Iterable[yaml.Node]:
        if not isinstance(node, yaml.SequenceNode):
            remedy = "put the words into brackets, or on lines that begin with '- '"
            raise self.error(node, f"a list of {what}", described(node), remedy)
        return node.value

    def text(self, node: yaml.Node, what: str) -> str:
        """A text, called `what` in messages."""
        if not isinstance(node, yaml.ScalarNode) or node.tag != _TEXT:
            raise self.error(node, f"{what} as text", described(node), "put it into quotes")
        return str(node.value)

    def _number(self, node: yaml.Node) -> float:
        try:
            if isinstance(node, yaml.ScalarNode) and node.tag in _NUMBERS:
                return float(yaml.safe_load(node.value))
        except (TypeError, ValueError, OverflowError):  # '!!float null', '!!int x', an int beyond any float.
            pass
        raise self.error(node, "a threshold from 0 to 1", described(node), "write a number such as 0.3")


def described(node: yaml.Node) -> str:
    """A node in a message: what came instead of what was expected."""
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    kind = node.tag.rpartition(":")[2]
    return f"'{node.value}'" if kind in ("str", "null") else f"the {kind} {node.value}"


def _listed(words: Iterable[str]) -> str:
    return ", ".join(f"'{word}'" for word in words)
