"""Warns of words that cannot do their work: doubles, near synonyms, words too long or too general."""

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ovs_ros.vocabulary.category import MAX_NAME_LENGTH
from ovs_ros.vocabulary.text_encoder import is_latin
from ovs_ros.vocabulary.vocabulary import Vocabulary, name_key
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings

LONG_NAME = 50
"""Characters from which a name is better said by a short name and a prompt."""

# fmt: off
GENERIC = frozenset({
    "anything", "area", "background", "category", "class", "entity", "everything", "foreground", "image",
    "item", "items", "label", "material", "misc", "miscellaneous", "none", "object", "objects", "other",
    "others", "region", "scene", "something", "stuff", "thing", "things", "undefined", "unknown",
    "unlabeled", "void",
})
# fmt: on
"""Names that fit nearly everything, so that they take pixels from all others."""

_ROWS_A_BLOCK = 512


@dataclass(frozen=True)
class Finding:
    """What is wrong with some words.

    Attributes:
        kind: 'empty', 'overlong', 'duplicate', 'generic', 'near synonym', 'negative', 'list', 'unreadable',
            or 'refused' for what no vocabulary takes.
        names: the words it is about.
        message: what is wrong and what to do.
    """

    kind: str
    names: tuple[str, ...]
    message: str


def lint(
    vocabulary: Vocabulary,
    embedded: WordEmbeddings | None = None,
    near: float = 0.9,
    reads: Callable[[str], bool] = is_latin,
) -> list[Finding]:
    """What to look at in a vocabulary before a robot depends on it.

    Args:
        vocabulary: the words.
        embedded: the same vocabulary with embeddings; without it near synonyms go unseen.
        near: cosine from which two words count as near synonyms.
        reads: whether the model can read a name (`TextEncoder.reads`); by default, whether an encoder for
            English can.

    Raises:
        ValueError: `embedded` belongs to another vocabulary, or `near` is no cosine.
    """
    if not -1 <= near <= 1:
        raise ValueError(f"expected a cosine from -1 to 1 as the limit of near synonyms, got {near}")
    findings = lint_names(vocabulary.names, vocabulary.negatives, reads)
    if embedded is not None:
        if embedded.vocabulary != vocabulary:
            raise ValueError("expected the embeddings of the vocabulary that is linted, got those of another")
        findings += _near_synonyms(embedded, near)
    return findings


def lint_names(
    names: Iterable[str], negatives: Iterable[str] = (), reads: Callable[[str], bool] = is_latin
) -> list[Finding]:
    """What is wrong with names as a user wrote them, even such as no vocabulary would take; see `lint`."""
    findings: list[Finding] = []
    categories: dict[str, str] = {}
    for position, name in enumerate(names, 1):
        findings += _about_one(name, f"category {position}")
        if name_key(name) in GENERIC:
            findings.append(
                Finding(
                    "generic",
                    (name,),
                    f"'{name}' fits everything; name what it is, or make it a negative word",
                )
            )
        findings += _about_lists(name)
        if _loose_key(name) and not reads(name):
            findings.append(_unreadable(name))
        findings += _about_double(name, categories)
    words: dict[str, str] = {}
    for position, word in enumerate(negatives, 1):
        findings += _about_one(word, f"negative word {position}")
        if _loose_key(word) and not reads(word):
            findings.append(_unreadable(word))
        findings += _about_double(word, words)
        key = _loose_key(word)
        if key and key in categories:
            findings.append(
                Finding(
                    "negative",
                    (categories[key], word),
                    f"'{categories[key]}' is a category and a negative word, so its pixels become unknown; "
                    "take it out of one of the two",
                )
            )
    return findings


def _about_lists(name: str) -> list[Finding]:
    """Several names in one, as prompts of detectors are written."""
    parts = [part.strip() for part in re.split(r"[,;，；、|]|\s\.\s", name) if part.strip()]
    if len(parts) < 2:
        return []
    message = f"'{name}' looks like {len(parts)} names in one; give {', '.join(map(repr, parts))} apart"
    return [Finding("list", (name,), message)]


def _unreadable(name: str) -> Finding:
    message = (
        f"'{name}' is unknown to the text encoder; most encoders know English alone. Use the English word, "
        "or a multilingual model such as siglip2-b16"
    )
    return Finding("unreadable", (name,), message)


def _about_one(name: str, what: str) -> list[Finding]:
    if not _loose_key(name):
        return [Finding("empty", (name,), f"{what} is {name!r}, without a letter or a digit; leave it out")]
    length = len(" ".join(name.split()))
    if length > LONG_NAME:
        return [
            Finding(
                "overlong",
                (name,),
                f"'{name[:40]}…' has {length} characters, of at most {LONG_NAME} that read well "
                f"({MAX_NAME_LENGTH} are allowed); shorten it, and put details into a prompt",
            )
        ]
    return []


def _about_double(name: str, seen: dict[str, str]) -> list[Finding]:
    """A finding if `seen` holds the name; otherwise the name is added to it."""
    key = _loose_key(name)
    if key in seen:
        message = f"'{seen[key]}' and '{name}' are one name; leave one out"
        return [Finding("duplicate", (seen[key], name), message)]
    if key:
        seen[key] = name
    return []


def _loose_key(name: str) -> str:
    """A name without case, blanks, hyphens and underscores: 'Traffic-Light' and 'traffic light' have one."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name_key(name)))


def _near_synonyms(embedded: WordEmbeddings, near: float) -> list[Finding]:
    """For each category the category and the negative word next to it, where they are near."""
    vocabulary = embedded.vocabulary
    count = len(vocabulary)
    categories, negatives = embedded.embeddings[:count], embedded.embeddings[count:]  # (K, D), (N, D)
    findings: dict[tuple[int, int], Finding] = {}
    nearest, cosines = _nearest(categories, categories, itself=False)
    for row in np.flatnonzero(cosines >= near):
        first, second = sorted((int(row), int(nearest[row])))
        names = vocabulary.names[first], vocabulary.names[second]
        if _loose_key(names[0]) != _loose_key(names[1]):
            findings[first, second] = Finding(
                "near synonym",
                names,
                f"'{names[0]}' and '{names[1]}' mean nearly the same (cosine {cosines[row]:.2f}) and will "
                "share pixels at random; keep one, or tell them apart by prompts",
            )
    nearest, cosines = _nearest(categories, negatives, itself=True)
    for row in np.flatnonzero(cosines >= near):
        names = vocabulary.names[row], vocabulary.negatives[nearest[row]]
        if _loose_key(names[0]) != _loose_key(names[1]):
            findings[int(row), count + int(nearest[row])] = Finding(
                "negative",
                names,
                f"the negative word '{names[1]}' means nearly the same as '{names[0]}' (cosine "
                f"{cosines[row]:.2f}), so that its pixels become unknown; take one of them out",
            )
    return list(findings.values())


def _nearest(
    rows: NDArray[np.float32], columns: NDArray[np.float32], itself: bool
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """For each row (K, D) the index of the column (M, D) with the largest cosine, and that cosine: (K,) each.

    `itself` says whether a row may find the column of its own index. Without columns the cosine is -inf.
    """
    nearest = np.zeros(len(rows), np.intp)
    cosines = np.full(len(rows), -np.inf, np.float32)
    if len(columns) == 0:
        return nearest, cosines
    for start in range(0, len(rows), _ROWS_A_BLOCK):
        block = rows[start : start + _ROWS_A_BLOCK] @ columns.T  # (block, M)
        index = np.arange(len(block))
        if not itself:
            block[index, start + index] = -np.inf
        best = block.argmax(axis=1)
        nearest[start : start + len(block)] = best
        cosines[start : start + len(block)] = block[index, best]
    return nearest, cosines
