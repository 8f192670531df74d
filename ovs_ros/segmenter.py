"""The whole way of a frame, from an RGB image to a name for every pixel."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from ovs_ros.encoders.features import Features
from ovs_ros.model import Model, check_image
from ovs_ros.options import SegmenterOptions
from ovs_ros.runtime.finite import require_finite
from ovs_ros.runtime.stage_clock import StageClock
from ovs_ros.steps.alignment import align
from ovs_ros.steps.chunked_decoder import AT_ONCE, decode_in_chunks
from ovs_ros.steps.decoder import decode
from ovs_ros.steps.evidence import evidence_of
from ovs_ros.steps.labels import validate
from ovs_ros.steps.network import MOST_WORDS, REFINED
from ovs_ros.steps.postprocess import refine, with_fine_grid
from ovs_ros.steps.segmentation import Segmentation, segmentation
from ovs_ros.steps.selection import Selection, everything, select
from ovs_ros.steps.tag_validation import validate_tags
from ovs_ros.steps.teaching import Shown, arrays_of, teach
from ovs_ros.vocabulary.attributes import Attributes
from ovs_ros.vocabulary.cache import EmbeddingCache
from ovs_ros.vocabulary.examples import Arrays, Example, Seen
from ovs_ros.vocabulary.prompts import embed
from ovs_ros.vocabulary.vocabulary import Vocabulary
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings

if TYPE_CHECKING:
    from ovs_ros.steps.torch_frame import TorchFrame

__all__ = ["Scored", "Segmenter", "SegmenterOptions"]

# A frame's matrix products are too small to share: BLAS threads cost more in waking up than they save.
_BLAS = ThreadpoolController().select(user_api="blas")
Encoding = Callable[[], Arrays]


def _here(encoding: Encoding) -> Arrays:
    return encoding()


class Scored(NamedTuple):
    """A frame whose words have logits and whose pixels are not yet decided.

    Attributes:
        features: the image in the space shared with words.
        selection: what the frame is decided among.
        logits: (rows, columns, M + N) float32 for the nodes that the image covers: the M selected categories,
            then the N negatives. A softmax over them gives the probabilities.
    """

    features: Features
    selection: Selection
    logits: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Segmenter:
    """Names every pixel of an image with words of a vocabulary. `ovs_ros.load` makes one.

    It is immutable and keeps no state between two frames; `dataclasses.replace` makes another one over the
    same model. The encoders keep their buffers from frame to frame, so that segmenters over one model are for
    one thread at a time. `embed` alone may run beside `segment`, with words whose examples went through `see`
    before, or that have none: then it needs no image encoder.

    Attributes:
        model: the encoders, and what was fitted for them.
        options: count wherever a call gives none of its own.
        cache: where `embed` looks up embeddings and keeps new ones; None: it encodes all words each time.
        attributes: what `embed` says of words' looks beside their names (LMSeg); None: nothing.
        frame_path: a faster way for whole frames, to the same answer; None: there is none.
        negatives: generic negative words, which `embed` adds to vocabularies that have none of their own.

    Raises:
        TypeError: a part is of another kind.
    """

    model: Model
    options: SegmenterOptions = SegmenterOptions()
    cache: EmbeddingCache | None = None
    attributes: Attributes | None = None
    frame_path: "TorchFrame | None" = None
    negatives: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, kind in (("model", Model), ("options", SegmenterOptions)):
            if not isinstance(got := getattr(self, name), kind):
                raise TypeError(f"expected {name} to be a {kind.__name__}, got {type(got).__name__}")

    def embed(
        self, vocabulary: Vocabulary, progress: Callable[[int, int], None] | None = None
    ) -> WordEmbeddings:
        """Embed the words. Words that the cache lacks take the text encoder's time: not for the frame path.

        Args:
            vocabulary: the words.
            progress: called now and then with how many words are done and how many there are.

        Raises:
            VocabularyError: a category's prompts cancel each other out, there are more words than the model
                can keep the prompts of, or an example cannot be used.
        """
        words = embed(
            vocabulary,
            self.model.text_encoder,
            self.cache,
            progress,
            self.attributes,
            self.model.knowledge,
            self.negatives,
        )
        model = self.model
        return teach(words, self._shown, model.image_encoder.logit_scale, model.temperature)

    def see(self, example: Example, encode: Callable[[Encoding], Arrays] = _here) -> Example:
        """The example with what the model sees of its image in the image's place; the cache may know it.

        Args:
            example: unchanged where a model saw its image before.
            encode: calls what it gets, which encodes the image, on the thread that the image encoder belongs
                to, and returns the result; by default on this thread.

        Raises:
            VocabularyError: the image or the mask cannot be read.
        """
        if isinstance(example.image, Seen):
            return example
        identity = self.model.identity
        key = hashlib.sha256(identity.encode() + example.content()).hexdigest()
        kept: Arrays | None = self.cache.get_arrays(key) if self.cache else None
        if kept is None:
            image = example.read_image()
            # The encoder's buffers hold until the next image: the copies are made where it is encoded.
            kept = encode(lambda: arrays_of(self.model.encode(image), (image.shape[0], image.shape[1])))
            if self.cache:
                self.cache.put_arrays(key, kept)
        return example.seen(Seen(key, identity, kept))

    def _shown(self, example: Example) -> Shown:
        seen = self.see(example).image
        assert isinstance(seen, Seen)
        return Shown.of(seen.arrays)

    def segment(
        self, image: NDArray[np.uint8], words: WordEmbeddings, options: SegmenterOptions | None = None
    ) -> Segmentation:
        """Name every pixel of an image.

        Args:
            image: (H, W, 3) uint8 RGB of any size; not changed, and not kept.
            words: a vocabulary that `embed` embedded.
            options: in place of the segmenter's own.

        Raises:
            TypeError: the image is not a uint8 array.
            ValueError: the image has another shape, or the words come from another encoder's space.
            NotFiniteError: the model gives NaN or infinity.
        """
        return self.segment_batch([image], words, options)[0]

    def segment_batch(
        self,
        images: Sequence[NDArray[np.uint8]],
        words: WordEmbeddings,
        options: SegmenterOptions | None = None,
    ) -> list[Segmentation]:
        """Name every pixel of several images.

        A torch model on a GPU encodes up to 8 images at once that it brings to the same grid of patches. With
        other models it is the same as `segment` for one image after the other.

        Args:
            images: as in `segment`; their sizes may differ.
            words: as in `segment`.
            options: in place of the segmenter's own.

        Returns:
            one result for each image. Stages of images that ran together took that long for all of them.

        Raises:
            TypeError, ValueError, NotFiniteError: as in `segment`, for any of the images; then none of them
                has a result.
        """
        options = self.options if options is None else options
        for image in images:
            self._check(image, words)
        done: dict[int, Segmentation] = {}
        if self.frame_path is not None:
            temperature = options.temperature * self.model.temperature
            network = options.network and self.model.network is not None
            done = self.frame_path.segment(images, words, options, temperature=temperature, network=network)
        left = [index for index in range(len(images)) if index not in done]
        for place, features in self.model.encode_batch([images[index] for index in left]):
            done[left[place]] = self._decide(images[left[place]], features, words, options)
        return [done[index] for index in range(len(images))]

    def _decide(
        self, image: NDArray[np.uint8], features: Features, words: WordEmbeddings, options: SegmenterOptions
    ) -> Segmentation:
        """From the features of an image, as the model gives them, to a word for every pixel."""
        clock = StageClock()
        clock.add(features.stages_ms)
        features = with_fine_grid(features, options.postprocess)
        size = image.shape[0], image.shape[1]
        if self._is_huge(features, words, options):
            selection = everything(words)
            indices, confidence = self._decode_huge(features, words, options, size)
        else:
            _, selection, logits = self._score(image, features, words, options, clock)
            indices, confidence = decode(logits, features, size)
        clock.stage("decode")
        if options.validation != "off":
            with _BLAS.limit(limits=1):
                indices, selection = validate_tags(indices, logits, features, selection, words, options)
        verdict = validate(indices, confidence, selection, words, options.threshold)
        clock.stage("validate")
        classes, scores = selection.classes, selection.scores
        return segmentation(words.vocabulary, classes, scores, confidence, *verdict, clock.stages_ms)

    def score(
        self, image: NDArray[np.uint8], words: WordEmbeddings, options: SegmenterOptions | None = None
    ) -> Scored:
        """Select and align: the logits of every node of the output grid, before any pixel is decided.

        Args:
            image: as in `segment`.
            words: as in `segment`.
            options: in place of the segmenter's own.

        Raises:
            TypeError, ValueError, NotFiniteError: as in `segment`.
        """
        self._check(image, words)
        options = self.options if options is None else options
        features = with_fine_grid(self.model.encode(image), options.postprocess)
        return self._score(image, features, words, options, StageClock())

    def _check(self, image: NDArray[np.uint8], words: WordEmbeddings) -> None:
        check_image(image)
        encoder = self.model.image_encoder
        if words.embeddings.shape[1] != encoder.dim:
            raise ValueError(
                f"expected words of {encoder.dim} dimensions for {encoder.name}, got "
                f"{words.embeddings.shape[1]}; embed them with this segmenter"
            )

    def _is_huge(self, features: Features, words: WordEmbeddings, options: SegmenterOptions) -> bool:
        """Whether there are so many logits that words are decoded in chunks, and whether they can be."""
        count = len(words.embeddings)
        network = options.network and self.model.network is not None and count <= MOST_WORDS
        plain = options.validation == "off" and options.postprocess == "none" and words.prototypes is None
        separable = features.head.separable and words.prompts is None and not network
        many = features.grid[0] * features.grid[1] * count > 2 * AT_ONCE
        return not options.select and plain and separable and many

    def _decode_huge(
        self, features: Features, words: WordEmbeddings, options: SegmenterOptions, size: tuple[int, int]
    ) -> tuple[NDArray[np.integer], NDArray[np.uint8]]:
        temperature = options.temperature * self.model.temperature

        def logits_of(chunk: NDArray[np.intp]) -> NDArray[np.float32]:
            logits = align(features, words.embeddings[chunk], temperature=temperature)
            require_finite(logits, "logits", self.model.name)
            return logits

        with _BLAS.limit(limits=1):
            return decode_in_chunks(logits_of, len(words.embeddings), features, size)

    def _score(
        self,
        image: NDArray[np.uint8],
        features: Features,
        words: WordEmbeddings,
        options: SegmenterOptions,
        clock: StageClock,
    ) -> Scored:
        model = self.model
        with _BLAS.limit(limits=1):
            # Selection's settings were chosen at the scale of training; no temperature moves them.
            evidence = evidence_of(features, words.prototypes)
            selection = everything(words)
            if options.select:
                selection = select(features, words, options, evidence, model.selection_head)
            clock.stage("select")
            logits = align(
                features,
                words.embeddings[selection.words],
                prompts=None if words.prompts is None else words.prompts[selection.words],
                network=model.network if options.network else None,
                most_refined=REFINED if options.select else MOST_WORDS,
                temperature=options.temperature * model.temperature,
                evidence=None if evidence is None else evidence.among(selection.classes),
            )
            clock.stage("align")
            if options.postprocess != "none":
                logits = refine(logits, features, image, options.postprocess)
                clock.stage("postprocess")
        require_finite(logits, "logits", model.name)
        return Scored(features, selection, logits)
