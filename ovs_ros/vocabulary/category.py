"""One thing to look for: its name, how to say it to the text encoder, its id and its colour."""

import colorsys
import hashlib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from numbers import Real

from ovs_ros.runtime.quoting import quoted
from ovs_ros.vocabulary.errors import VocabularyError as VocabularyError
from ovs_ros.vocabulary.examples import Example, checked_examples

MAX_NAME_LENGTH = 100
MAX_PROMPT_LENGTH = 300
MAX_PROMPTS = 100
MAX_SYNONYMS = 20
MAX_ALL_PROMPTS = 200_000
"""Of all categories together."""
MAX_NEGATIVES = 10_000
MAX_IDS = 65535
"""How many ids there are: 0 to 65534; 65535 means unknown in a 16 bit label image."""
_SLACK = 10
"""How many times as long as allowed a text may come, for its surplus blanks."""
_HIDDEN_SHOWN = 5

_JOINERS = re.compile("[\u200c\u200d]")
"""Persian and Indian scripts spell with them; names that differ in them alone look much the same."""
_BLANK = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8"
    "\U0001d159\U000e0000-\U000e0fff]|(?:^|(?<=[\u0000-\u02ff]))[\u200c\u200d]"
)
"""What Unicode calls 'default ignorable' beside its format characters; letters and symbols that look blank;
joiners without a letter before them that they could join."""


def name_key(name: str) -> str:
    """What makes two names the same: Unicode form NFC without case, surplus blanks and joiners."""
    return unicodedata.normalize("NFC", " ".join(_JOINERS.sub("", name).split()).casefold())


def singular(key: str) -> str:
    """The key with its last word in the singular, by the common endings of English."""
    if key.endswith("ies") and len(key) > 4:
        return key[:-3] + "y"
    if key.endswith(("sses", "xes", "ches", "shes")):
        return key[:-2]
    if key.endswith("s") and not key.endswith(("ss", "us", "is")):
        return key[:-1]
    return key


@dataclass(frozen=True)
class CategorySpec:
    """What a user asks for, before an id exists.

    Attributes:
        name: what is published; blanks are trimmed and runs of them become one.
        prompts: texts to embed instead of the encoder's templates; '{}' in a prompt takes the name.
        threshold: probability in [0, 1] below which a pixel is unknown; None: the segmenter's default.
        synonyms: other names of the same thing; each is said as the name is, and the mean counts.
        examples: where it was shown; what looks like them matches too.
        examples_only: the examples alone count, for a name that says nothing of looks ('my mug', 'bay 7').

    Raises:
        VocabularyError: a field is of the wrong type, empty, too long or out of range.
    """

    name: str
    prompts: tuple[str, ...] = ()
    threshold: float | None = None
    synonyms: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()
    examples_only: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", checked_name(self.name))
        object.__setattr__(self, "prompts", _checked_prompts(self.name, self.prompts))
        object.__setattr__(self, "threshold", _checked_threshold(self.name, self.threshold))
        object.__setattr__(self, "synonyms", _checked_synonyms(self.name, self.synonyms))
        object.__setattr__(self, "examples", checked_examples(self.name, self.examples))
        if self.examples_only and not self.examples:
            raise VocabularyError(
                f"expected examples for {quoted(self.name)}, whose name is not to count, got none; add one"
            )

    @property
    def spoken(self) -> tuple[str, ...]:
        """The name and its synonyms."""
        return (self.name, *self.synonyms)


@dataclass(frozen=True)
class Category(CategorySpec):
    """A name that the robot looks for, with the id that stands for it in label images.

    Attributes:
        id: 0 to 65534.

    Raises:
        VocabularyError: as `CategorySpec`, or the id is out of range.
    """

    id: int = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.id < MAX_IDS:
            raise VocabularyError(f"expected a category id from 0 to {MAX_IDS - 1}, got {self.id}")

    @property
    def color(self) -> tuple[int, int, int]:
        """RGB, 0 to 255 each, from the name alone: vivid, the same in every vocabulary and run."""
        digest = hashlib.blake2b(name_key(self.name).encode(), digest_size=4).digest()
        hue = int.from_bytes(digest[:2], "big") / 65536
        saturation = 0.6 + 0.4 * digest[2] / 255
        value = 0.65 + 0.35 * digest[3] / 255
        red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
        return round(255 * red), round(255 * green), round(255 * blue)


def checked_name(name: object, role: str = "category") -> str:
    """`checked_text` of a name; `role` says of what, for the message: 'category', 'negative'."""
    return checked_text(name, f"a {role} name", MAX_NAME_LENGTH)


def checked_text(text: object, what: str, longest: int, name: str = "") -> str:
    """A user's text in Unicode form NFC with single blanks.

    Args:
        text: what came from outside.
        what: it is, for the message, such as 'a category name'.
        longest: how many characters it may have.
        name: takes the place of '{}' in it.

    Raises:
        VocabularyError: no text, no letter or digit in it, too long, or control characters or invisible ones
            in it.
    """
    if not isinstance(text, str):
        raise VocabularyError(f"expected {what} as text, got {quoted(text)}; put it in quotes")
    if len(text) > _SLACK * longest:  # What follows takes time and memory with its length.
        raise _too_long(text, what, longest)
    plain = unicodedata.normalize("NFC", " ".join(text.split()))
    if len(plain) > longest:
        raise _too_long(plain, what, longest)
    hidden = _hidden(plain)
    if hidden:
        raise VocabularyError(
            f"expected {what} without control characters and invisible ones, got {hidden} in {quoted(text)}; "
            "type it again"
        )
    if not any(character.isalnum() for character in plain.replace("{}", name)):
        raise VocabularyError(
            f"expected {what} with a letter or a digit, got {quoted(text)}; write one or leave it out"
        )
    return plain


def _too_long(text: str, what: str, longest: int) -> VocabularyError:
    return VocabularyError(
        f"expected {what} of at most {longest} characters, got {len(text)} in {quoted(text[:40])[:-1]}…'; "
        "shorten it"
    )


def refuse_duplicates(names: Iterable[str], what: str) -> None:
    """Raise VocabularyError if two names have one `name_key`; the message calls each a `what`."""
    seen: dict[str, str] = {}
    for name in names:
        key = name_key(name)
        if key in seen:
            raise VocabularyError(
                f"expected each {what} once, got {quoted(seen[key])} and {quoted(name)}, which differ "
                "at most in case and blanks; leave one out"
            )
        seen[key] = name


def _hidden(text: str) -> str:
    """The numbers and names of characters that nobody sees, or that no log or terminal can carry."""
    if text.isascii() and text.isprintable():
        return ""
    found = {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs") and not _JOINERS.match(c)}
    found.update(_BLANK.findall(text))
    named = [f"U+{ord(c):04X} {unicodedata.name(c, 'a control character')}" for c in sorted(found)]
    return ", ".join(named[:_HIDDEN_SHOWN]) + (" and others" if len(named) > _HIDDEN_SHOWN else "")


def _checked_prompts(name: str, prompts: object) -> tuple[str, ...]:
    texts = _checked_list(name, prompts, "prompts", MAX_PROMPTS)
    what = f"a prompt for {quoted(name)}"
    return tuple(checked_text(text, what, MAX_PROMPT_LENGTH, name) for text in texts)


def _checked_synonyms(name: str, synonyms: object) -> tuple[str, ...]:
    texts = _checked_list(name, synonyms, "synonyms", MAX_SYNONYMS)
    words = tuple(checked_text(text, f"a synonym of {quoted(name)}", MAX_NAME_LENGTH) for text in texts)
    refuse_duplicates((name, *words), "name and synonym")
    return words


def _checked_list(name: str, given: object, what: str, most: int) -> tuple[object, ...]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise VocabularyError(
            f"expected a list of {what} for {quoted(name)}, got {quoted(given)}; put it in brackets"
        )
    texts = tuple(given)
    if len(texts) > most:
        raise VocabularyError(
            f"expected at most {most} {what} for {quoted(name)}, got {len(texts)}; keep the best"
        )
    return texts


def _checked_threshold(name: str, threshold: object) -> float | None:
    if threshold is None:
        return None
    if isinstance(threshold, bool) or not isinstance(threshold, Real) or not 0 <= float(threshold) <= 1:
        raise VocabularyError(
            f"expected a threshold from 0 to 1 for {quoted(name)}, got {quoted(threshold)}; "
            "leave it out to use the segmenter's default"
        )
    return float(threshold)
