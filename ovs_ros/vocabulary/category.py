"""One thing to look for: its name, how to say it to the text encoder, its id and its colour."""

import colorsys
import hashlib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real

MAX_NAME_LENGTH = 100
MAX_PROMPT_LENGTH = 300
MAX_PROMPTS = 100
MAX_IDS = 65535
"""How many ids there can ever be: 0 to 65534; 65535 means unknown in a 16 bit label image."""


class VocabularyError(ValueError):
    """Words or a change of them that cannot be: says what was expected, what came, and what to do."""


def name_key(name: str) -> str:
    """What makes two names the same: the name in Unicode form NFC, without case and surplus blanks."""
    return unicodedata.normalize("NFC", " ".join(name.split()).casefold())


@dataclass(frozen=True)
class CategorySpec:
    """What a user asks for, before an id exists.

    Attributes:
        name: what is published; blanks are trimmed and runs of them become one.
        prompts: texts to embed instead of the encoder's templates; '{}' in a prompt takes the name.
        threshold: probability in [0, 1] below which a pixel is unknown; None: the segmenter's default.

    Raises:
        VocabularyError: a field is of the wrong type, empty, too long or out of range.
    """

    name: str
    prompts: tuple[str, ...] = ()
    threshold: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", checked_name(self.name))
        object.__setattr__(self, "prompts", _checked_prompts(self.name, self.prompts))
        object.__setattr__(self, "threshold", _checked_threshold(self.name, self.threshold))


@dataclass(frozen=True)
class Category:
    """A name that the robot looks for, with the id that stands for it in label images.

    Attributes:
        id: 0 to 65534; belongs to this name as long as the vocabulary's history lasts.
        name: as published.
        prompts: texts to embed instead of the encoder's templates; empty: the templates.
        threshold: probability in [0, 1] below which a pixel is unknown; None: the segmenter's default.

    Raises:
        VocabularyError: a field is of the wrong type, empty, too long or out of range.
    """

    id: int
    name: str
    prompts: tuple[str, ...] = ()
    threshold: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.id < MAX_IDS:
            raise VocabularyError(f"expected a category id from 0 to {MAX_IDS - 1}, got {self.id}")
        object.__setattr__(self, "name", checked_name(self.name))
        object.__setattr__(self, "prompts", _checked_prompts(self.name, self.prompts))
        object.__setattr__(self, "threshold", _checked_threshold(self.name, self.threshold))

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
    """The name with single blanks.

    Args:
        name: what came from outside.
        role: what it names, for the message: 'category', 'negative'.

    Raises:
        VocabularyError: no text, no letter or digit in it, too long, or control characters in it.
    """
    if not isinstance(name, str):
        raise VocabularyError(f"expected a {role} name as text, got {name!r}; put it in quotes")
    plain = unicodedata.normalize("NFC", " ".join(name.split()))
    if not any(character.isalnum() for character in plain):
        raise VocabularyError(
            f"expected a {role} name with a letter or a digit, got {name!r}; name it or leave it out"
        )
    if len(plain) > MAX_NAME_LENGTH:
        raise VocabularyError(
            f"expected a {role} name of at most {MAX_NAME_LENGTH} characters, got {len(plain)} in "
            f"'{plain[:40]}…'; shorten it, and put details into a prompt"
        )
    if not _is_plain(plain):
        raise VocabularyError(
            f"expected a {role} name without control characters, got {name!r}; take them out"
        )
    hidden = sorted({f"U+{ord(c):04X}" for c in plain if _is_hidden(c)})
    if hidden:
        raise VocabularyError(
            f"expected a {role} name without invisible characters, got {', '.join(hidden)} in {name!r}; type "
            "the name again"
        )
    return plain


def refuse_duplicates(names: Iterable[str], what: str) -> None:
    """Raise VocabularyError if two names have one `name_key`; the message calls each a `what`."""
    seen: dict[str, str] = {}
    for name in names:
        key = name_key(name)
        if key in seen:
            raise VocabularyError(
                f"expected each {what} once, got '{seen[key]}' and '{name}', which differ at most in case "
                "and blanks; leave one out"
            )
        seen[key] = name


def _is_hidden(character: str) -> bool:
    """Invisible, but for the two joiners that Persian and Indian scripts spell with."""
    return unicodedata.category(character) == "Cf" and character not in "\u200c\u200d"


def _is_plain(text: str) -> bool:
    # Control characters garble logs and terminals, and no ROS string can carry a lone surrogate.
    return text.isprintable() or not any(unicodedata.category(c) in ("Cc", "Cs") for c in text)


def _checked_prompts(name: str, prompts: object) -> tuple[str, ...]:
    if isinstance(prompts, str) or not isinstance(prompts, Iterable):
        raise VocabularyError(f"expected a list of prompts for '{name}', got {prompts!r}; put it in brackets")
    texts = tuple(prompts)
    if len(texts) > MAX_PROMPTS:
        raise VocabularyError(
            f"expected at most {MAX_PROMPTS} prompts for '{name}', got {len(texts)}; keep the best"
        )
    return tuple(_checked_prompt(name, text) for text in texts)


def _checked_prompt(name: str, prompt: object) -> str:
    if not isinstance(prompt, str) or not any(c.isalnum() for c in prompt.replace("{}", name)):
        raise VocabularyError(
            f"expected prompts with text for '{name}', got {prompt!r}; write one, where '{{}}' takes the name"
        )
    plain = " ".join(prompt.split())
    if len(plain) > MAX_PROMPT_LENGTH:
        raise VocabularyError(
            f"expected prompts of at most {MAX_PROMPT_LENGTH} characters for '{name}', got {len(plain)} in "
            f"'{plain[:40]}…'; shorten it"
        )
    if not _is_plain(plain):
        raise VocabularyError(
            f"expected prompts without control characters for '{name}', got {prompt!r}; take them out"
        )
    return plain


def _checked_threshold(name: str, threshold: object) -> float | None:
    if threshold is None:
        return None
    if isinstance(threshold, bool) or not isinstance(threshold, Real) or not 0 <= float(threshold) <= 1:
        raise VocabularyError(
            f"expected a threshold from 0 to 1 for '{name}', got {threshold!r}; "
            "leave it out to use the segmenter's default"
        )
    return float(threshold)
