"""Vocabularies as files that people write: YAML, and plain lists of class names.

A YAML vocabulary is a list of names, or a mapping::

    categories: [person, {name: sofa, synonyms: [couch]}, {name: desk, prompts: ["a desk"], threshold: 0.3}]
    negatives: [sky, shadow]

A category may have examples, whose paths start at the file's folder::

    - name: my mug
      examples_only: true
      examples: [{image: mug.jpg, box: [310, 120, 402, 260]}, {image: b.jpg, mask: bin.png, negative: true}]
"""

import difflib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ovs_ros.runtime.files import is_file, write_atomically
from ovs_ros.runtime.quoting import quoted
from ovs_ros.runtime.yaml_file import PlainLoader, read_text
from ovs_ros.vocabulary.examples import Example, Seen
from ovs_ros.vocabulary.vocabulary import CategorySpec, Vocabulary, VocabularyError, name_key

SHIPPED = Path(__file__).parent / "shipped"
_FILE_KEYS = ("categories", "negatives")
_CATEGORY_KEYS = ("name", "prompts", "threshold", "synonyms", "examples", "examples_only")
_EXAMPLE_KEYS = ("image", "box", "mask", "points", "negative")
_EXAMPLES = "the shipped vocabularies (ovs vocabulary show office)"
_TEXT = "tag:yaml.org,2002:str"
_BOOL = "tag:yaml.org,2002:bool"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class Entry(NamedTuple):
    """A category as it stands in a file, before anything but its types is checked."""

    line: int
    name: str
    prompts: tuple[str, ...] = ()
    threshold: float | None = None
    synonyms: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()
    examples_only: bool = False


def find_vocabulary(name: Path | str) -> Path:
    """The file of a vocabulary.

    Args:
        name: a path, or the name of a shipped vocabulary, with or without '.yaml'.

    Raises:
        VocabularyError: there is no such file.
    """
    for path in (Path(name).expanduser(), SHIPPED / name, SHIPPED / f"{name}.yaml"):
        if str(name) and is_file(path):
            return path
    known = ", ".join(sorted(path.stem for path in SHIPPED.glob("*.yaml")))
    raise VocabularyError(
        f"expected the vocabulary to be a YAML file or one of {known}, got {quoted(str(name))}, "
        "which is neither"
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
        VocabularyError: an example's image is in no file.
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
        if category.examples:
            entry["examples"] = [example_entry(example, Path(path).parent) for example in category.examples]
        if category.examples_only:
            entry["examples_only"] = True
        categories.append(entry if len(entry) > 1 else category.name)
    document: dict[str, Any] = {"categories": categories}
    if vocabulary.negatives:
        document["negatives"] = list(vocabulary.negatives)
    text = yaml.safe_dump(document, allow_unicode=True, sort_keys=False, default_flow_style=False)
    write_atomically(Path(path), text.encode())


def example_entry(example: Example, folder: Path) -> dict[str, Any]:
    """An example as a YAML file in a folder has it.

    Raises:
        VocabularyError: its image or mask is in no file.
    """
    entry: dict[str, Any] = {"image": _relative(example.image, folder)}
    if example.box is not None:
        entry["box"] = list(example.box)
    if example.mask is not None:
        entry["mask"] = _relative(example.mask, folder)
    if example.points:
        entry["points"] = [list(point) for point in example.points]
    if example.negative:
        entry["negative"] = True
    return entry


def _relative(file: Path | bytes | Seen, folder: Path) -> str:
    if isinstance(file, bytes | Seen):
        raise VocabularyError(
            "expected examples in files to write them, got one that was taught while running; save its image"
        )
    return os.path.relpath(file, folder)


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
        return read_text(Path(path))
    except OSError as error:
        raise VocabularyError(
            f"{path}: expected a file that can be read, got: {error.strerror or error}; check the path"
        ) from error
    except UnicodeDecodeError as error:
        raise VocabularyError(
            f"{path}: expected UTF-8 text, got the byte {error.object[error.start]:#04x} at {error.start}; "
            "save the file as UTF-8"
        ) from error
    except ValueError as error:
        raise VocabularyError(str(error)) from error


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
            return yaml.compose(text, Loader=PlainLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = f", line {mark.line + 1}" if mark else ""
            raise VocabularyError(
                f"{self.path}{where}: expected YAML, got a mistake: {error.problem or error.context}; "
                "mend it there"
            ) from error
        # The last two: PyYAML lets out what Python says of an escape such as "\UFFFFFFFF".
        except (yaml.YAMLError, ValueError, OverflowError) as error:
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
        return tuple(self._entry(item) for item in self.items(node, "categories"))

    def texts(self, node: yaml.Node, what: str) -> tuple[str, ...]:
        """A list of texts, called `what` in messages."""
        return tuple(self.text(item, what) for item in self.items(node, what))

    def fields(self, node: yaml.Node, expected: str, keys: tuple[str, ...]) -> dict[str, yaml.Node]:
        """The values of a mapping that may hold these keys, each at most once."""
        if not isinstance(node, yaml.MappingNode):
            raise self.error(node, expected, described(node), f"see {self._examples}")
        fields: dict[str, yaml.Node] = {}
        for key_node, value in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else ""
            if key not in keys:
                near = difflib.get_close_matches(key[:100], keys, n=1, cutoff=0)[0]
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
            self._examples_of(fields["examples"]) if "examples" in fields else (),
            self._truth(fields["examples_only"]) if "examples_only" in fields else False,
        )

    def _examples_of(self, node: yaml.Node) -> tuple[Example, ...]:
        return tuple(self._example(item) for item in self.items(node, "examples"))

    def _example(self, node: yaml.Node) -> Example:
        fields = self.fields(node, "an example as a mapping with 'image'", _EXAMPLE_KEYS)
        if "image" not in fields:
            raise self.error(node, "the key 'image'", "an example without it", "name the image's file")
        points = self.items(fields["points"], "points") if "points" in fields else ()
        try:
            return Example(
                self._file(fields["image"], "an image"),
                self._whole_numbers(fields["box"], "box") if "box" in fields else None,
                self._file(fields["mask"], "a mask") if "mask" in fields else None,
                tuple(self._whole_numbers(point, "point") for point in points),
                self._truth(fields["negative"]) if "negative" in fields else False,
            )
        except VocabularyError as error:
            if str(error).startswith(str(self.path)):
                raise
            raise VocabularyError(f"{self.path}, line {node.start_mark.line + 1}: {error}") from error

    def _file(self, node: yaml.Node, what: str) -> Path:
        """An existing file, named relative to this one."""
        path = Path(self.path).parent / Path(self.text(node, f"the path of {what}")).expanduser()
        if not path.is_file():
            raise self.error(
                node, f"{what} at {path}", "no such file", "paths start at the YAML file's folder"
            )
        return path

    def _whole_numbers(self, node: yaml.Node, what: str) -> tuple[int, ...]:
        numbers = []
        for item in self.items(node, f"the numbers of a {what}"):
            if item.tag != _NUMBERS[0]:
                raise self.error(item, "a whole number of pixels", described(item), "count from the top left")
            numbers.append(int(self._number(item)))
        return tuple(numbers)

    def _truth(self, node: yaml.Node) -> bool:
        if not isinstance(node, yaml.ScalarNode) or node.tag != _BOOL or len(node.value) > 100:
            raise self.error(node, "true or false", described(node), "write true, or leave the key out")
        return bool(yaml.safe_load(node.value))

    def items(self, node: yaml.Node, what: str) -> Sequence[yaml.Node]:
        """The items of a list, called `what` in messages."""
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
            if isinstance(node, yaml.ScalarNode) and node.tag in _NUMBERS and len(node.value) < 100:
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
    value = quoted(node.value)
    return value if kind in ("str", "null") else f"the {quoted(kind)[1:-1]} {value[1:-1]}"


def _listed(words: Iterable[str]) -> str:
    return ", ".join(f"'{word}'" for word in words)
