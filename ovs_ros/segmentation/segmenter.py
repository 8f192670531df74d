"""The whole way of a frame, from an RGB image to named pixels."""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from ovs_ros.encoders.protocols import ImageEncoder, TextEncoder
from ovs_ros.segmentation.alignment import align
from ovs_ros.segmentation.decoder import decode
from ovs_ros.segmentation.options import SegmenterOptions
from ovs_ros.segmentation.segmentation import Segmentation
from ovs_ros.segmentation.selection import everything, select
from ovs_ros.segmentation.validation import validate
from ovs_ros.vocabulary.cache import EmbeddingCache
from ovs_ros.vocabulary.embedded import EmbeddedVocabulary
from ovs_ros.vocabulary.prompts import embed
from ovs_ros.vocabulary.vocabulary import Vocabulary

__all__ = ["Segmenter", "SegmenterOptions"]

# A frame's matrix products are too small to share: BLAS threads cost more in waking up than they save.
_BLAS = ThreadpoolController().select(user_api="blas")


class Segmenter:
    """Names every pixel of an image with words of a vocabulary.

    `segment` keeps no state between two frames, and takes a vocabulary and options as they are when it is
    called: both can be exchanged between two frames, from another thread too.

    Args:
        image_encoder: brings images into the space shared with words.
        text_encoder: brings words there.
        options: kept as an attribute that may be replaced at any time; the next frame goes by it.
        cache: where `embed` looks up embeddings and keeps new ones; None: it encodes all words each time.

    Raises:
        ValueError: the encoders do not share one space.
    """

    def __init__(
        self,
        image_encoder: ImageEncoder,
        text_encoder: TextEncoder,
        options: SegmenterOptions | None = None,
        cache: EmbeddingCache | None = None,
    ) -> None:
        if image_encoder.dim != text_encoder.dim:
            raise ValueError(
                "expected an image and a text encoder of one space, got "
                f"{image_encoder.name} with {image_encoder.dim} dimensions and "
                f"{text_encoder.name} with {text_encoder.dim}; use a pair that was trained together"
            )
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder
        self.options = options if options is not None else SegmenterOptions()
        self.cache = cache

    @classmethod
    def load(cls, preset: str = "stream", **options: object) -> "Segmenter":
        """The embedded model, with embeddings cached on disk.

        Args:
            preset: 'stream' for speed or 'quality' for detail.
            options: fields of SegmenterOptions that shall differ from their defaults.

        Raises:
            TypeError: an option that does not exist, or of another type.
            ValueError: an unknown preset, or an option out of range.
        """
        from ovs_ros.encoders import embedded

        checked = SegmenterOptions(**options)  # type: ignore[arg-type]  # checked at run time, field by field
        return cls(*embedded.load(preset), checked, EmbeddingCache())

    def embed(
        self, vocabulary: Vocabulary, progress: Callable[[int, int], None] | None = None
    ) -> EmbeddedVocabulary:
        """Embed the words. Words that the cache lacks take the text encoder's time: not for the frame path.

        Args:
            vocabulary: the words.
            progress: called now and then with how many words are done and how many there are.

        Raises:
            VocabularyError: a category's prompts cancel each other out.
        """
        return embed(vocabulary, self.text_encoder, self.cache, progress)

    def __call__(self, image: NDArray[np.uint8], words: EmbeddedVocabulary) -> Segmentation:
        """The same as `segment`."""
        return self.segment(image, words)

    def segment(self, image: NDArray[np.uint8], words: EmbeddedVocabulary) -> Segmentation:
        """Name every pixel of an image.

        Args:
            image: (H, W, 3) uint8 RGB of any size; not changed, and not kept.
            words: a vocabulary that `embed` embedded.

        Raises:
            TypeError: the image is not a uint8 array.
            ValueError: the image has another shape, or the words come from another encoder's space.
        """
        options = self.options
        encoder = self.image_encoder
        _check_image(image)
        if words.embeddings.shape[1] != encoder.dim:
            raise ValueError(
                f"expected words of {encoder.dim} dimensions for {encoder.name}, got "
                f"{words.embeddings.shape[1]}; embed them with this segmenter"
            )
        clock = _StageClock()
        prepared = encoder.prepare(image)
        clock.stage("prepare")
        encoded = encoder.backbone(prepared)
        clock.stage("encode")
        features = encoder.project(encoded)
        clock.stage("project")
        scale = encoder.logit_scale / options.temperature
        with _BLAS.limit(limits=1):
            selection = select(features, words, scale, options) if options.select else everything(words)
            clock.stage("select")
            logits = align(features, words.embeddings[selection.rows], scale)
        clock.stage("align")
        columns, confidence = decode(logits, features, (image.shape[0], image.shape[1]))
        clock.stage("decode")
        verdict = validate(columns, confidence, selection, words, options.threshold)
        clock.stage("validate")
        categories = words.vocabulary.categories
        return Segmentation(
            labels=verdict.labels,
            confidence=confidence,
            vocabulary=words.vocabulary,
            selected_ids=words.ids[selection.columns],
            selected_names=tuple(categories[column].name for column in selection.columns),
            scores=selection.scores,
            shares=verdict.shares,
            unknown_share=verdict.unknown_share,
            stages_ms=clock.stages_ms,
        )


@dataclass
class _StageClock:
    stages_ms: dict[str, float] = field(default_factory=dict)
    _since: float = field(default_factory=perf_counter)

    def stage(self, name: str) -> None:
        """Book the time since the last call under this name."""
        now = perf_counter()
        self.stages_ms[name] = (now - self._since) * 1e3
        self._since = now


def _check_image(image: object) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        got = f"dtype {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
        raise TypeError(f"expected an image as a uint8 array, got {got}; convert it to 8 bit RGB")
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"expected an RGB image of shape (height, width, 3), got {image.shape}")
