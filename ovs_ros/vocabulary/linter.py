"""Warns of words that cannot do their work: doubles, near synonyms, words too long or too general."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ovs_ros.runtime.quoting import quoted
from ovs_ros.vocabulary.category import MAX_NAME_LENGTH
from ovs_ros.vocabulary.knowledge import Knowledge
from ovs_ros.vocabulary.text_encoder import is_latin
from ovs_ros.vocabulary.vocabulary import Vocabulary, name_key
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings

LONG_NAME = 50
"""Characters from which a name is better said by a short name and a prompt."""

GENERIC = frozenset(
    """anything area background category class entity everything foreground image item items label material
    misc miscellaneous none object objects other others region scene something stuff thing things undefined
    unknown unlabeled void""".split()  # noqa: SIM905  # a list would take a line for each
)
"""Names that fit nearly everything, so that they take pixels from all others."""

NOTES = ("captions", "text only", "kind", "confused")
"""Kinds of findings that tell what the model knows of words."""

_ROWS_A_BLOCK = 512


@dataclass(frozen=True)
class Finding:
    """What is wrong with some words.

    Attributes:
        kind: 'empty', 'overlong', 'duplicate', 'generic', 'near synonym', 'negative', 'list', 'unreadable',
            or 'refused' for what no vocabulary takes; or one of NOTES.
        names: the words it is about.
        message: what is wrong and what to do.
    """

    kind: str
    names: tuple[str, ...]
    message: str

    @property
    def is_note(self) -> bool:
        """Whether nothing has to be done about it."""
        return self.kind in NOTES


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
    wordless = {category.name for category in vocabulary.categories if category.examples_only}
    findings = [
        finding
        for finding in lint_names(vocabulary.names, vocabulary.negatives, reads)
        if not (finding.kind in ("unreadable", "generic") and wordless.issuperset(finding.names))
    ]
    if embedded is not None:
        if embedded.vocabulary != vocabulary:
            raise ValueError("expected the embeddings of the vocabulary that is linted, got those of another")
        findings += _near_synonyms(embedded, near)
    return findings


def note_knowledge(vocabulary: Vocabulary, knowledge: Knowledge) -> list[Finding]:
    """Notes on what a model was shown of words, and which it confuses; none if its training is unknown."""
    notes: list[Finding] = []
    shown = {c.name: "" if c.examples_only else knowledge.shown(c) for c in vocabulary.categories}
    captions = tuple(name for name in vocabulary.names if shown[name] == "captions")
    kinds = knowledge.kinds_among(vocabulary.categories)
    text = tuple(name for name in vocabulary.names if shown[name] == "text" and name not in kinds)
    if captions:
        message = "in training in captions or names of pictures, never as labelled pixels"
        notes.append(Finding("captions", captions, message))
    if text and knowledge.labels:
        message = "in no training picture, known from text alone; a synonym may be found more surely"
        notes.append(Finding("text only", text, message))
    for name, kind in kinds.items():
        message = f"said as '{kind}' too, of which it is a kind and which the model knows better"
        notes.append(Finding("kind", (name,), message))
    keys = {name_key(name): category.name for category in vocabulary.categories for name in category.spoken}
    for (key, other), share in knowledge.confusions.items():
        if key in keys and other in keys and keys[key] != keys[other]:
            message = f"{share:.0%} of the pixels of '{keys[key]}' got '{keys[other]}' on images with labels"
            notes.append(Finding("confused", (keys[key], keys[other]), message))
    return notes


def lint_names(
    names: Iterable[str], negatives: Iterable[str] = (), reads: Callable[[str], bool] = is_latin
) -> list[Finding]:
    """What is wrong with names as a user wrote them, even such as no vocabulary would take; see `lint`."""
    findings: list[Finding] = []
    categories: dict[str, str] = {}  # Names by their loose keys.
    for position, name in enumerate(names, 1):
        findings += _about_one(name, f"category {position}", reads, categories)
        if name_key(name) in GENERIC:
            message = f"'{name}' fits everything; name what it is, or make it a negative word"
            findings.append(Finding("generic", (name,), message))
        # Several names in one, as prompts of detectors are written.
        parts = [part.strip() for part in re.split(r"[,;，；、|]|\s\.\s", name) if part.strip()]
        if len(parts) > 1:
            message = (
                f"'{name}' looks like {len(parts)} names in one; give {', '.join(map(repr, parts))} apart"
            )
            findings.append(Finding("list", (name,), message))
    words: dict[str, str] = {}
    for position, word in enumerate(negatives, 1):
        findings += _about_one(word, f"negative word {position}", reads, words)
        if category := categories.get(_loose_key(word)):
            message = (
                f"'{category}' is a category and a negative word, so its pixels become unknown; take it out "
                "of one of the two"
            )
            findings.append(Finding("negative", (category, word), message))
    return findings


def _about_one(name: str, what: str, reads: Callable[[str], bool], seen: dict[str, str]) -> Iterator[Finding]:
    """What concerns categories and negative words alike; a name that `seen` lacks is added to it."""
    key, length = _loose_key(name), len(" ".join(name.split()))
    if not key:
        yield Finding(
            "empty", (name,), f"{what} is {quoted(name)}, without a letter or a digit; leave it out"
        )
        return
    if length > LONG_NAME:
        message = (
            f"'{name[:40]}…' has {length} characters, of at most {LONG_NAME} that read well "
            f"({MAX_NAME_LENGTH} are allowed); shorten it, and put details into a prompt"
        )
        yield Finding("overlong", (name,), message)
    if not reads(name):
        message = (
            f"'{name}' is unknown to the text encoder; most encoders know English alone. Use the English "
            "word, or a multilingual model such as siglip2-b16"
        )
        yield Finding("unreadable", (name,), message)
    if key in seen:
        message = f"'{seen[key]}' and '{name}' are one name; leave one out"
        yield Finding("duplicate", (seen[key], name), message)
    seen.setdefault(key, name)


def _loose_key(name: str) -> str:
    """A name without case, blanks, hyphens and underscores: 'Traffic-Light' and 'traffic light' have one."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name_key(name)))


def _near_synonyms(embedded: WordEmbeddings, near: float) -> list[Finding]:
    """For each category the category and the negative word next to it, where they are near."""
    vocabulary = embedded.vocabulary
    count = len(vocabulary)
    words = vocabulary.names + vocabulary.negatives
    categories = embedded.embeddings[:count]  # (K, D)
    negatives = embedded.embeddings[count : len(words)]  # (N, D)
    findings: dict[tuple[int, int], Finding] = {}
    for others, start in ((categories, 0), (negatives, count)):
        nearest, cosines = _nearest(categories, others, itself=start > 0)
        for row in np.flatnonzero(cosines >= near):
            pair = sorted((int(row), start + int(nearest[row])))
            first, second = (words[place] for place in pair)
            if _loose_key(first) == _loose_key(second):
                continue  # Reported already.
            kind = "negative" if start else "near synonym"
            message = (
                f"the negative word '{second}' means nearly the same as '{first}' (cosine "
                f"{cosines[row]:.2f}), so that its pixels become unknown; take one of them out"
                if start
                else f"'{first}' and '{second}' mean nearly the same (cosine {cosines[row]:.2f}) and will "
                "share pixels at random; keep one, or tell them apart by prompts"
            )
            findings[pair[0], pair[1]] = Finding(kind, (first, second), message)
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
