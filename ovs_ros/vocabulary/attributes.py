"""What categories look like: phrases about colour, shape and texture, for prompts beyond the name.

After LMSeg (arXiv 2412.00364), where a language model writes them. docs/guide/vocabulary.md has the format.
A user's file is merged over the one that comes with the package.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from ovs_ros.runtime.files import is_file
from ovs_ros.runtime.quoting import quoted
from ovs_ros.vocabulary.category import MAX_NAME_LENGTH, VocabularyError, checked_text, name_key, singular
from ovs_ros.vocabulary.yaml_io import Form, described

SHIPPED = Path(__file__).parent / "attributes.yaml"
MAX_PHRASE_LENGTH = 120
_PHRASES = ("color", "shape", "texture", "context")
_KEYS = (*_PHRASES, "synonyms")
_EXAMPLES = "docs/guide/vocabulary.md"
OFF, OWN = "off", "shipped"


@dataclass(frozen=True)
class CategoryAttributes:
    """What a category looks like. Phrases that are not given are empty.

    Attributes:
        name: of the category.
        color: its usual colours.
        shape: shape and size.
        texture: texture and material.
        context: where it is, as it reads after the name: 'on a road'.
        synonyms: other names that these phrases fit.
    """

    name: str
    color: str = ""
    shape: str = ""
    texture: str = ""
    context: str = ""
    synonyms: tuple[str, ...] = ()

    @property
    def phrases(self) -> tuple[str, ...]:
        """Colour, shape and texture, as far as they are said."""
        return tuple(phrase for phrase in (self.color, self.shape, self.texture) if phrase)


class Attributes:
    """Attributes of many categories, found by name, and how they get into the categories' embeddings.

    LMSeg embeds text about a category's colour, shape and texture in place of or beside its name; how
    the texts come together is not known from the paper. Here one text names all of them.

    A name is looked up as it stands, then among synonyms, then by its singular; case, blanks and hyphens do
    not matter. Earlier entries count before later ones.

    Args:
        entries: of different names.
        weight: from 0 to 1, the share of the attributes' embedding in the word's; the name's templates have
            the rest. A reading: the paper's average over all texts corresponds to about a half.
    """

    def __init__(self, entries: Iterable[CategoryAttributes], weight: float = 0.1) -> None:
        self.entries = tuple(entries)
        self.weight = weight
        self._index: dict[str, CategoryAttributes] = {}
        for entry in self.entries:
            self._index.setdefault(_key(entry.name), entry)
        for entry in self.entries:
            for synonym in entry.synonyms:
                self._index.setdefault(_key(synonym), entry)
        for key, entry in list(self._index.items()):
            self._index.setdefault(singular(key), entry)

    def find(self, name: str) -> CategoryAttributes | None:
        """The attributes of a name; None if there are none."""
        key = _key(name)
        return self._index.get(key) or self._index.get(singular(key))

    def texts(self, name: str) -> tuple[str, ...]:
        """The texts about a name's looks; none where nothing is known of it."""
        known = self.find(name)
        if known is None or not known.phrases or self.weight == 0:
            return ()
        placed = f"{name} {known.context}" if known.context else name
        return (f"a {placed}: {'; '.join(known.phrases)}",)

    def under(self, above: "Attributes") -> "Attributes":
        """These attributes with others merged over them.

        Of a category that both have, what `above` says counts, and the rest stays. Names and synonyms of
        `above` are found before those of these.
        """
        below = {_key(entry.name): entry for entry in self.entries}
        merged = [_over(below.pop(_key(entry.name), None), entry) for entry in above.entries]
        return Attributes([*merged, *below.values()], self.weight)


def load_attributes(setting: str, weight: float = 0.1) -> Attributes | None:
    """The attributes that a setting names.

    Args:
        setting: 'off' for none; 'shipped' for those that come with the package; or a YAML file to lay over
            the shipped ones.
        weight: see `Attributes`.

    Raises:
        VocabularyError: there is no such file, or it has another form; the message names file and line.
        ValueError: the weight is out of range.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"expected a weight of attributes from 0 to 1, got {weight!r}")
    if setting == OFF:
        return None
    shipped = Attributes(read_attributes(SHIPPED).entries, weight)
    if setting == OWN:
        return shipped
    path = Path(setting).expanduser()
    if not is_file(path):
        near = difflib.get_close_matches(setting[:100], (OFF, OWN), n=1)
        hint = f"did you mean '{near[0]}'?" if near else "check the path"
        raise VocabularyError(
            f"expected attributes to be '{OFF}', '{OWN}' or a YAML file, got {quoted(setting)}, which is "
            f"none of them; {hint}"
        )
    return shipped.under(read_attributes(path))


def read_attributes(path: Path | str) -> Attributes:
    """Read one file of attributes.

    Raises:
        VocabularyError: the file cannot be read, is no YAML, has another form, or has an entry twice.
    """
    form = Form(path, _EXAMPLES)
    root = form.compose()
    if root is None:
        raise VocabularyError(
            f"{path}: expected categories with attributes, got an empty file; see {_EXAMPLES}"
        )
    if not isinstance(root, yaml.MappingNode):
        raise form.error(root, "a mapping of categories", described(root), f"see {_EXAMPLES}")
    entries = []
    lines: dict[str, int] = {}
    for key_node, value in root.value:
        entry = _entry(form, key_node, value)
        for said in (entry.name, *entry.synonyms):
            key, line = _key(said), key_node.start_mark.line + 1
            if key in lines:
                raise form.error(
                    key_node,
                    "each name and synonym once",
                    f"'{said}' again after line {lines[key]}",
                    "put both into one category",
                )
            lines[key] = line
        entries.append(entry)
    return Attributes(entries)


def _entry(form: Form, key_node: yaml.Node, value: yaml.Node) -> CategoryAttributes:
    name = _checked(form, key_node, form.text(key_node, "a category name"), "a category name")
    fields = form.fields(value, f"a mapping with {', '.join(_KEYS)} for '{name}'", _KEYS)
    phrases = {
        key: _checked(
            form,
            fields[key],
            form.text(fields[key], f"{key} of '{name}'"),
            f"a phrase for {key} of '{name}'",
            MAX_PHRASE_LENGTH,
        )
        for key in _PHRASES
        if key in fields
    }
    synonyms: tuple[str, ...] = ()
    if "synonyms" in fields:
        node = fields["synonyms"]
        texts = form.texts(node, f"synonyms for '{name}'")
        synonyms = tuple(_checked(form, node, text, "a synonym") for text in texts)
    if not phrases and not synonyms:
        raise form.error(value, f"attributes for '{name}'", "none", f"give one of {', '.join(_KEYS)}")
    return CategoryAttributes(name, synonyms=synonyms, **phrases)


def _checked(form: Form, node: yaml.Node, text: str, what: str, longest: int = MAX_NAME_LENGTH) -> str:
    try:
        return checked_text(text, what, longest)
    except VocabularyError as error:
        raise VocabularyError(f"{form.path}, line {node.start_mark.line + 1}: {error}") from error


def _over(below: CategoryAttributes | None, above: CategoryAttributes) -> CategoryAttributes:
    if below is None:
        return above
    said = {key: getattr(above, key) for key in _PHRASES if getattr(above, key)}
    return replace(below, name=above.name, synonyms=(*above.synonyms, *below.synonyms), **said)


def _key(name: str) -> str:
    return name_key(name.replace("-", " ").replace("_", " "))
