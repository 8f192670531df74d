"""The present vocabulary, and how requests change it. No ROS node is needed."""

import math
import threading
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ovs_ros.model import Model
from ovs_ros.segmenter import Segmenter
from ovs_ros.srv import SetVocabulary, Teach
from ovs_ros.vocabulary.examples import Example, encoded
from ovs_ros.vocabulary.linter import lint, note_knowledge
from ovs_ros.vocabulary.vocabulary import CategorySpec, Vocabulary, VocabularyError
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings

PROMPT_SEPARATOR = "|"
NOT_CONFIGURED = "expected a configured node, got a request before or after; configure the node first"
_LINTED_FULLY = 2000
"""Up to how many words near synonyms are looked for: it costs the square of their number."""
_FINDINGS_SHOWN = 5


class Words:
    """Holds the embedded vocabulary. A change is made as a whole and swapped in as one reference.

    `current` may be read by any thread at any time; changes wait for each other.

    Args:
        initial: the words at the start and after `reset`.
        segmenter: embeds them.
        before: the last vocabulary before a cleanup of the node; its ids stay taken.
    """

    def __init__(self, initial: Vocabulary, segmenter: Segmenter, before: Vocabulary | None = None) -> None:
        self._initial = initial
        self._segmenter = segmenter
        self._changing = threading.Lock()
        self._closed = False
        vocabulary = initial if before is None else before.replaced(initial.categories, initial.negatives)
        self.current = segmenter.embed(vocabulary)
        self.model = segmenter.model

    def change(
        self, mode: int, names: Sequence[str], prompts: Sequence[str], thresholds: Sequence[float]
    ) -> WordEmbeddings:
        """Do what a SetVocabulary request asks for. Takes as long as its new words take to embed.

        Raises:
            VocabularyError: the request cannot be met, or it was closed meanwhile; nothing has changed.
        """
        return self._swap(lambda vocabulary: requested(vocabulary, mode, names, prompts, thresholds))

    def teach(self, name: str, example: Example, *, examples_only: bool) -> WordEmbeddings:
        """Add an example to a category. Takes as long as the model needs to encode its image.

        Raises:
            VocabularyError: as `change`, or the example cannot be used.
        """
        return self._swap(lambda vocabulary: vocabulary.taught(name, example, examples_only=examples_only))

    def reset(self) -> WordEmbeddings:
        """Go back to the words of the start, under the next version.

        Raises:
            VocabularyError: it is closed.
        """
        start = self._initial
        return self._swap(lambda vocabulary: vocabulary.replaced(start.categories, start.negatives))

    def close(self) -> Vocabulary:
        """Wait for the change at work, and refuse all that come later. Returns the last vocabulary.

        A change of many words gives up after the batch at work.
        """
        self._closed = True
        with self._changing:
            return self.current.vocabulary

    def _swap(self, change: Callable[[Vocabulary], Vocabulary]) -> WordEmbeddings:
        def go_on(done: int, total: int) -> None:
            # Thousands of new words take minutes: do not let the end of the node wait for them.
            if done < total:
                self._refuse_if_closed()

        with self._changing:
            self._refuse_if_closed()
            embedded = self._segmenter.embed(change(self.current.vocabulary), go_on)
            self.current = embedded
        return embedded

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise VocabularyError(NOT_CONFIGURED)


def requested(
    vocabulary: Vocabulary,
    mode: int,
    names: Sequence[str],
    prompts: Sequence[str],
    thresholds: Sequence[float],
) -> Vocabulary:
    """The vocabulary that a SetVocabulary request asks for.

    Args:
        vocabulary: the present one.
        mode: REPLACE, ADD or REMOVE of SetVocabulary.Request.
        names: of the categories.
        prompts: empty, or one entry a name, with '|' between prompts; '' for the usual ones.
        thresholds: empty, or one a name; NaN for the node's.

    Raises:
        VocabularyError: the request cannot be met.
    """
    request = SetVocabulary.Request
    if mode == request.REMOVE:
        if len(prompts) or len(thresholds):
            raise VocabularyError(
                "expected names alone to remove, got prompts or thresholds too; leave them out"
            )
        return vocabulary.removed(names)
    if mode not in (request.REPLACE, request.ADD):
        raise VocabularyError(
            f"expected mode {request.REPLACE} (replace), {request.ADD} (add) or {request.REMOVE} (remove), "
            f"got {mode}"
        )
    for what, values in (("prompts", prompts), ("thresholds", thresholds)):
        if len(values) not in (0, len(names)):
            raise VocabularyError(
                f"expected no {what} or one entry for each of {len(names)} names, got {len(values)}"
            )
    specs = [
        CategorySpec(
            name,
            _split(prompts[i]) if len(prompts) else (),
            None if not len(thresholds) or math.isnan(thresholds[i]) else float(thresholds[i]),
        )
        for i, name in enumerate(names)
    ]
    return vocabulary.replaced(specs) if mode == request.REPLACE else vocabulary.added(specs)


def pointed(request: Teach.Request, image: NDArray[np.uint8]) -> Example:
    """The example that a Teach request describes.

    Args:
        request: says where.
        image: (H, W, 3) uint8 RGB, the frame that it points into.

    Raises:
        VocabularyError: the request does not say where in the image.
    """
    height, width = image.shape[:2]
    if len(request.mask) not in (0, height * width):
        raise VocabularyError(
            f"expected a mask of the frame's {width} x {height} pixels, {height * width} values, got "
            f"{len(request.mask)}"
        )
    mask = np.array(request.mask, np.uint8).reshape(-1, width)
    points = [int(value) for value in request.points]
    if len(points) % 2:
        raise VocabularyError(f"expected points as x and y in turn, got {len(points)} numbers")
    example = Example(
        encoded(image),
        tuple(int(value) for value in request.box) or None,
        encoded(mask) if len(mask) else None,
        tuple(zip(points[::2], points[1::2], strict=True)),
        request.negative,
    )
    example.region(height, width)
    return example


def remarks(words: WordEmbeddings, model: Model) -> str:
    """One line: how many categories there are, and what the linter and the model's training say of them."""
    vocabulary = words.vocabulary
    full = len(words.embeddings) <= _LINTED_FULLY
    findings = lint(vocabulary, words if full else None, reads=model.text_encoder.reads)
    warnings = _listed([finding.message for finding in findings], "; ")
    notes = [
        f"{_listed(note.names, ', ')}: {note.message}" for note in note_knowledge(vocabulary, model.knowledge)
    ]
    text = f"version {vocabulary.version} with {len(vocabulary)} categories"
    text += f". Warnings: {warnings}" if warnings else ""
    return text + (f". Notes: {_listed(notes, '; ')}" if notes else "")


def _listed(items: Sequence[str], between: str) -> str:
    """The first few items."""
    more = len(items) - _FINDINGS_SHOWN
    return between.join(items[:_FINDINGS_SHOWN]) + (f"{between}and {more} more" if more > 0 else "")


def _split(prompts: str) -> tuple[str, ...]:
    return tuple(prompts.split(PROMPT_SEPARATOR)) if prompts.strip() else ()
