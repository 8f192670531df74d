"""The present vocabulary, and how requests change it. No ROS node is needed."""

import logging
import math
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from ovs_ros.model import Model
from ovs_ros.ros.unused_ids import GRACE_S, UnusedIds
from ovs_ros.runtime.quoting import quoted
from ovs_ros.segmenter import Encoding, Segmenter
from ovs_ros.srv import SetVocabulary, Teach
from ovs_ros.vocabulary.category import MAX_ALL_PROMPTS, MAX_IDS, MAX_PROMPT_LENGTH, checked_text
from ovs_ros.vocabulary.examples import Arrays, Example, Seen, encoded
from ovs_ros.vocabulary.ids import MOST_OF_8_BITS
from ovs_ros.vocabulary.linter import lint, note_knowledge
from ovs_ros.vocabulary.prompts import WORDS_A_BATCH
from ovs_ros.vocabulary.state_file import State, StateFile
from ovs_ros.vocabulary.vocabulary import CategorySpec, Vocabulary, VocabularyError, name_key
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings

logger = logging.getLogger(__name__)
PROMPT_SEPARATOR = "|"
NOT_CONFIGURED = "expected a configured node, got one that is not; configure it and ask again"
LOCKED = (
    "expected unlocked words, got a request to change them; whoever runs the node can set the parameter "
    "lock_vocabulary to false"
)
_LINTED_FULLY = 2000
"""Up to how many words near synonyms are looked for: it costs the square of their number."""
_FINDINGS_SHOWN = 5
CLOSING_S = 1.0
"""How long `close` waits for the change at work."""
MOST_TEXTS = 256
"""How many texts one request may embed."""


def _no_check() -> None:
    """The check of a change that nobody ends."""


class Words:
    """Holds the embedded vocabulary. A change is made as a whole and swapped in as one reference.

    `current` may be read by any thread at any time; changes wait for each other.

    Args:
        initial: the words at the start and after `reset`.
        segmenter: embeds them.
        before: the last vocabulary before a cleanup of the node, whose ids count on.
        state_file: has the words of the last run, which count then, and gets those of each change; None:
            nothing is kept over a restart.
        warn: called with what is wrong with that file, and when label images become 16 bits wide.
        clock: seconds that never go back.

    Attributes:
        current: the words that hold.
        changed: they are others than those of the start.

    Raises:
        VocabularyError: the initial words or their examples cannot be used.
    """

    def __init__(
        self,
        initial: Vocabulary,
        segmenter: Segmenter,
        before: Vocabulary | None = None,
        state_file: StateFile | None = None,
        warn: Callable[[str], object] = logger.warning,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.model = segmenter.model
        self._segmenter = segmenter
        self._state_file = state_file
        self._warn = warn
        self._changing = threading.Lock()
        self._closed = False
        self._borrowed: Counter[str] = Counter()
        self._initial = _with_examples(initial, segmenter.see)
        self.changed = False
        self._unused_ids = UnusedIds(clock)
        self._narrowing: threading.Timer | None = None
        self._wide = False
        self._hold(self._begin(before))

    def _begin(self, before: Vocabulary | None) -> WordEmbeddings:
        """The words of the last run, or those of the start."""
        start, embed, problem = self._initial, self._segmenter.embed, ""
        if self._state_file is not None:
            try:
                saved = self._state_file.read()
                if saved is not None and (before is None or saved.vocabulary.version >= before.version):
                    vocabulary, problem = continued(saved, start, self.model.identity)
                    words = embed(vocabulary)
                    self.changed = saved.changed
                    if vocabulary is not saved.vocabulary:
                        self._keep(vocabulary, problem)
                    return words
            except Exception as error:  # Whatever is in the file, the node starts.
                problem = f"The node starts with the words of its parameter 'vocabulary': {error}"
        vocabulary = start if before is None else before.replaced(start.categories, start.negatives)
        words = embed(vocabulary)
        self._keep(vocabulary, problem)
        return words

    def _keep(self, vocabulary: Vocabulary, problem: str = "") -> None:
        """Write the state file. Where that fails, words still change.

        Args:
            vocabulary: what to write.
            problem: with what the file holds now; then that is kept under another name.
        """
        if self._state_file is None:
            return
        if problem:
            try:
                problem += f". The file is now {self._state_file.set_aside()}"
            except OSError as error:
                problem += f". The file cannot be renamed: {error}"
            self._warn(problem)
        try:
            self._state_file.write(State(vocabulary, self.changed))
        except (OSError, VocabularyError) as error:
            self._warn(
                f"The words would be lost in a restart, for the state file cannot be written: {error}; check "
                "the parameter 'state_file'"
            )

    def change(
        self,
        mode: int,
        names: Sequence[str],
        prompts: Sequence[str],
        thresholds: Sequence[float],
        check: Callable[[], None] = _no_check,
    ) -> WordEmbeddings:
        """Do what a SetVocabulary request asks for. Takes as long as its new words take to embed.

        Args:
            mode, names, prompts, thresholds: see `requested`.
            check: called between two batches of words and before the change counts; what it raises ends it.

        Raises:
            VocabularyError: the request cannot be met, or it was closed meanwhile; nothing has changed.
        """
        made = self._swap(lambda vocabulary: requested(vocabulary, mode, names, prompts, thresholds), check)
        if mode == SetVocabulary.Request.REPLACE:
            self._borrowed.clear()
        return made

    def see(self, example: Example, encode: Callable[[Encoding], Arrays]) -> Example:
        """`Segmenter.see`."""
        return self._segmenter.see(example, encode)

    def teach(
        self, name: str, example: Example, *, examples_only: bool, check: Callable[[], None] = _no_check
    ) -> WordEmbeddings:
        """Add an example, whose image the model has seen, to a category; `check` as in `change`.

        Raises:
            VocabularyError: as `change`, or the example cannot be used.
        """
        made = self._swap(
            lambda vocabulary: vocabulary.taught(name, example, examples_only=examples_only), check
        )
        self._borrowed.pop(name_key(name), None)
        return made

    def borrow(
        self, names: Sequence[str], check: Callable[[], None] = _no_check, *, locked: bool = False
    ) -> WordEmbeddings:
        """Add the names that are not there for a while, until `give_back`; `check` as in `change`.

        Raises:
            VocabularyError: as `change`, or names are to be added to locked words.
        """
        known = {name_key(name) for name in self.current.vocabulary.names}
        keys = {name_key(name): name for name in names}
        new = [name for key, name in keys.items() if key not in known]
        if new and locked:
            raise VocabularyError(LOCKED)
        if new:
            self._swap(lambda vocabulary: vocabulary.added(new), check, changed=self.changed)
        self._borrowed.update(name_key(name) for name in new)
        self._borrowed.update(key for key in keys if key in known and self._borrowed[key])
        return self.current

    def give_back(self, names: Sequence[str]) -> WordEmbeddings:
        """Remove what `borrow` added, unless somebody else has borrowed it too, or asked for it to stay.

        Raises:
            VocabularyError: as `change`.
        """
        known = {name_key(name): name for name in self.current.vocabulary.names}
        gone = []
        for key in {name_key(name) for name in names}:
            if self._borrowed[key]:
                self._borrowed[key] -= 1
                if not self._borrowed[key] and key in known:
                    gone.append(known[key])
        if gone and len(gone) < len(known):
            self._swap(lambda vocabulary: vocabulary.removed(gone), _no_check, changed=self.changed)
        return self.current

    def load(
        self,
        vocabulary: Vocabulary,
        encode: Callable[[Encoding], Arrays],
        check: Callable[[], None] = _no_check,
    ) -> WordEmbeddings:
        """Replace all words, negative ones included; `check` as in `change`.

        Args:
            vocabulary: its categories and negative words count.
            encode: encodes the images of their examples, see `Segmenter.see`.

        Raises:
            VocabularyError: as `change`, or an example cannot be used.
        """
        new = _with_examples(vocabulary, lambda example: self.see(example, encode))
        made = self._swap(lambda old: old.replaced(new.categories, new.negatives), check)
        self._borrowed.clear()
        return made

    def reset(self, check: Callable[[], None] = _no_check) -> WordEmbeddings:
        """Go back to the words of the start, under the next version; `check` as in `change`.

        Raises:
            VocabularyError: it is closed.
        """
        start = self._initial
        made = self._swap(lambda old: old.replaced(start.categories, start.negatives), check, changed=False)
        self._borrowed.clear()
        return made

    def narrow(self) -> None:
        """Return to label images of 8 bits where few words are left, but some with ids above 254.

        It happens by itself once the ids of removed words are old enough to go to others.
        """
        with self._changing:
            self._narrowing = None
            old = self.current
            if self._closed or not _wide_without_need(old.vocabulary):
                return
            spared = old.vocabulary.with_spare_ids(self._unused_ids.spare())
            vocabulary = spared.replaced(old.vocabulary.categories)
            if vocabulary.wide:
                self._hold(old)
            else:
                self._keep(vocabulary)
                self._hold(replace(old, vocabulary=vocabulary))

    def vectors(self, texts: Sequence[str], check: Callable[[], None] = _no_check) -> NDArray[np.float32]:
        """Texts as they are, as unit vectors (len(texts), D) float32; `check` as in `change`.

        Raises:
            VocabularyError: there are none or more than MOST_TEXTS, or one is empty or too long.
        """
        if not 0 < len(texts) <= MOST_TEXTS:
            raise VocabularyError(f"expected 1 to {MOST_TEXTS} texts, got {len(texts)}; ask in parts")
        checked = [checked_text(text, "a text", MAX_PROMPT_LENGTH) for text in texts]
        parts = []
        for start in range(0, len(checked), WORDS_A_BATCH):
            check()
            parts.append(self.model.text_encoder.encode(checked[start : start + WORDS_A_BATCH]))
        return np.concatenate(parts)

    def close(self) -> Vocabulary:
        """Refuse the change at work and all that come later. Returns the last vocabulary.

        The change gives up after the batch at work; a text encoder that hangs is not waited for.
        """
        self._closed = True
        free = self._changing.acquire(timeout=CLOSING_S)
        if self._narrowing is not None:
            self._narrowing.cancel()
        if free:
            self._changing.release()
        return self.current.vocabulary

    def _swap(
        self,
        change: Callable[[Vocabulary], Vocabulary],
        check: Callable[[], None],
        *,
        changed: bool = True,
    ) -> WordEmbeddings:
        def go_on() -> None:
            self._refuse_if_closed()
            check()

        with self._changing:
            go_on()
            # Thousands of new words take minutes: neither the end of the node nor a reset waits for them.
            embedded = self._segmenter.embed(change(self._spared()), lambda done, total: go_on())
            go_on()
            self.changed = changed
            # First of all: nobody may see a version that a restart would give to other words.
            self._keep(embedded.vocabulary)
            self._hold(embedded)
        return embedded

    def _spared(self) -> Vocabulary:
        """The present vocabulary, with the ids that a change may give to other names."""
        vocabulary, spare = self.current.vocabulary, self._unused_ids.spare()
        if vocabulary.wide:  # `narrow` alone makes it small, or many changes would switch to and fro.
            spare = tuple(number for number in spare if number > MOST_OF_8_BITS)
        return vocabulary.with_spare_ids(spare)

    def _hold(self, words: WordEmbeddings) -> None:
        self.current = words
        self._unused_ids.update(words.vocabulary)
        if words.vocabulary.wide and not self._wide:
            count, most = len(words.vocabulary), words.vocabulary.ids.max()
            self._warn(
                f"Label images have 16 bits a pixel (16UC1) from now on, for {count} words with ids up to "
                f"{most}. Programs that read bytes, as Nav2 does, take other labels from them: use fewer "
                "words, or give those programs a label view (parameter 'views')"
            )
        self._wide = words.vocabulary.wide
        if _wide_without_need(words.vocabulary) and self._narrowing is None:
            self._narrowing = threading.Timer(GRACE_S, self.narrow)
            self._narrowing.daemon = True
            self._narrowing.start()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise VocabularyError(NOT_CONFIGURED)


def _wide_without_need(vocabulary: Vocabulary) -> bool:
    return vocabulary.wide and len(vocabulary) <= MOST_OF_8_BITS


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
        mode: REPLACE, ADD, REMOVE or NEGATIVES of SetVocabulary.Request.
        names: of the categories.
        prompts: empty, or one entry a name, with '|' between prompts; '' for the usual ones.
        thresholds: empty, or one a name; NaN for the node's.

    Raises:
        VocabularyError: the request cannot be met.
    """
    request = SetVocabulary.Request
    if mode in (request.REMOVE, request.NEGATIVES):
        if len(prompts) or len(thresholds):
            raise VocabularyError(
                "expected names alone to remove or as negative words, got prompts or thresholds too; leave "
                "them out"
            )
        if mode == request.REMOVE:
            return vocabulary.removed(names)
        return vocabulary.replaced(vocabulary.categories, names)
    if mode not in (request.REPLACE, request.ADD):
        raise VocabularyError(
            f"expected mode {request.REPLACE} (replace), {request.ADD} (add), {request.REMOVE} (remove) or "
            f"{request.NEGATIVES} (negatives), got {mode}"
        )
    if len(names) > MAX_IDS:
        raise VocabularyError(f"expected at most {MAX_IDS} names, got {len(names)}; use fewer")
    for what, values in (("prompts", prompts), ("thresholds", thresholds)):
        if len(values) not in (0, len(names)):
            raise VocabularyError(
                f"expected no {what} or one entry for each of {len(names)} names, got {len(values)}"
            )
    if sum(text.count(PROMPT_SEPARATOR) + 1 for text in prompts) > MAX_ALL_PROMPTS:
        raise VocabularyError(f"expected at most {MAX_ALL_PROMPTS} prompts, got more; use fewer")
    specs = [
        CategorySpec(
            name,
            _split(prompts[i]) if len(prompts) else (),
            None if not len(thresholds) or math.isnan(thresholds[i]) else float(thresholds[i]),
        )
        for i, name in enumerate(names)
    ]
    if mode == request.ADD:
        return vocabulary.added(specs)
    taught = {name_key(c.name): (c.examples, c.examples_only) for c in vocabulary.categories}
    kept = [(spec, *taught.get(name_key(spec.name), ((), False))) for spec in specs]
    return vocabulary.replaced(
        [replace(spec, examples=examples, examples_only=only) for spec, examples, only in kept]
    )


def _with_examples(vocabulary: Vocabulary, see: Callable[[Example], Example]) -> Vocabulary:
    """The same version, with what the model sees in the place of the examples' images."""
    categories = []
    for category in vocabulary.categories:
        try:
            examples = tuple(see(example) for example in category.examples)
        except VocabularyError as error:
            raise VocabularyError(f"{quoted(category.name)}: {error}") from error
        categories.append(replace(category, examples=examples))
    return replace(vocabulary, categories=tuple(categories))


def continued(saved: State, start: Vocabulary, model: str) -> tuple[Vocabulary, str]:
    """The vocabulary after a restart, and what is lost.

    Words that were changed stay, but for examples that another model saw. Words that were not changed are
    those of the start, should these be others now.

    Args:
        saved: of the run before.
        start: the words of the start; this model saw their examples.
        model: its `identity`.

    Returns:
        The saved vocabulary or its next version, and a warning, empty if nothing is lost.

    Raises:
        VocabularyError: there are not enough ids.
    """
    old = saved.vocabulary
    if not saved.changed:
        new = old.replaced(start.categories, start.negatives)
        return (old if (new.categories, new.negatives) == (old.categories, old.negatives) else new), ""
    examples = {name_key(category.name): category.examples for category in start.categories}
    kept: list[CategorySpec] = []
    forgotten: list[str] = []
    for category in old.categories:
        if all(
            isinstance(example.image, Seen) and example.image.model == model for example in category.examples
        ):
            kept.append(category)
            continue
        forgotten.append(category.name)
        others = examples.get(name_key(category.name), ())
        if others or not category.examples_only:
            kept.append(replace(category, examples=others))
    if not forgotten:
        return old, ""
    return old.replaced(kept or start.categories), (
        f"What was taught of {_listed(forgotten, ', ')} is left out, for another model saw it than {model}; "
        "teach it again, or load that model with the old file"
    )


def pointed(request: Teach.Request, image: NDArray[np.uint8], rotation: int = 0) -> Example:
    """The example that a Teach request describes.

    Args:
        request: says where.
        image: (H, W, 3) uint8 RGB, the frame that it points into.
        rotation: by how many degrees the model sees that turned clockwise. The example is turned alike.

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
    for _ in range(rotation // 90):
        height = len(image)
        image, mask = np.rot90(image, -1), np.rot90(mask, -1)
        box = None if example.box is None else _turned(example.box, height)
        example = replace(example, box=box, points=tuple((height - 1 - y, x) for x, y in example.points))
    if rotation:
        image, mask = np.ascontiguousarray(image), np.ascontiguousarray(mask)
        example = replace(example, image=encoded(image), mask=encoded(mask) if mask.size else None)
    return example


def _turned(box: tuple[int, ...], height: int) -> tuple[int, ...]:
    """A box of an image of this height after the image was turned clockwise by 90 degrees."""
    x0, y0, x1, y1 = box
    return height - y1, x0, height - y0, x1


def remarks(words: WordEmbeddings, model: Model, before: Vocabulary | None = None) -> str:
    """One line: how many categories there are, what the linter says of them, and the model's training.

    Args:
        words: that hold now.
        model: embedded them.
        before: the vocabulary before, whose words are not noted again; None: all are new.
    """
    vocabulary = words.vocabulary
    full = len(words.embeddings) <= _LINTED_FULLY
    findings = lint(vocabulary, words if full else None, reads=model.text_encoder.reads)
    warnings = _listed([finding.message for finding in findings], ". ")
    known = set() if before is None else set(before.names)
    notes = []
    for note in note_knowledge(vocabulary, model.knowledge):
        new = [name for name in note.names if name not in known]
        if new:
            names = note.names if note.kind == "confused" else new
            notes.append(f"{_listed(names, ', ')}: {note.message}")
    count = f"{len(vocabulary)} {'category' if len(vocabulary) == 1 else 'categories'}"
    text = f"version {vocabulary.version} with {count}"
    text += f". Warnings: {warnings}" if warnings else ""
    return text + (f". Notes: {_listed(notes, '. ')}" if notes else "")


def _listed(items: Sequence[str], between: str) -> str:
    """The first few items."""
    more = len(items) - _FINDINGS_SHOWN
    return between.join(items[:_FINDINGS_SHOWN]) + (f"{between}and {more} more" if more > 0 else "")


def _split(prompts: str) -> tuple[str, ...]:
    return tuple(prompts.split(PROMPT_SEPARATOR)) if prompts.strip() else ()
