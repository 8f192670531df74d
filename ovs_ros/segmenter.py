"""The whole way of a frame, from an RGB image to named pixels."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from ovs_ros.encoders.model_file import find_model_file, read_model_file
from ovs_ros.encoders.protocols import DenseFeatures, ImageEncoder, TextEncoder
from ovs_ros.evaluation.temperature_scaling import load_temperature
from ovs_ros.load import load_model
from ovs_ros.options import SegmenterOptions
from ovs_ros.runtime.threads import use_threads
from ovs_ros.steps.alignment import align
from ovs_ros.steps.decoder import decode
from ovs_ros.steps.labels import validate
from ovs_ros.steps.network import MOST_WORDS, NETWORK_FILE, REFINED, RefinementNetwork
from ovs_ros.steps.postprocess import refine, with_fine_grid
from ovs_ros.steps.segmentation import Segmentation
from ovs_ros.steps.selection import Selection, everything, select
from ovs_ros.steps.tag_validation import validate_tags
from ovs_ros.vocabulary.cache import EmbeddingCache
from ovs_ros.vocabulary.prompts import AttributePrompts, embed
from ovs_ros.vocabulary.vocabulary import Vocabulary
from ovs_ros.vocabulary.word_embeddings import EmbeddedVocabulary

__all__ = ["Scored", "Segmenter", "SegmenterOptions"]

# A frame's matrix products are too small to share: BLAS threads cost more in waking up than they save.
_BLAS = ThreadpoolController().select(user_api="blas")


class Scored(NamedTuple):
    """A frame on its way, when its words are scored and its pixels not yet decided.

    Attributes:
        features: the image in the space shared with words.
        selection: what the frame is decided among.
        logits: (rows, cols, M + N) float32 for the nodes that the image covers: the M selected categories,
            then the N negatives. A softmax over them gives the probabilities.
    """

    features: DenseFeatures
    selection: Selection
    logits: NDArray[np.float32]


class Segmenter:
    """Names every pixel of an image with words of a vocabulary.

    `segment` keeps no state between two frames, and takes a vocabulary and options as they are when it is
    called: both can be exchanged between two frames, from another thread too.

    Args:
        image_encoder: brings images into the space shared with words.
        text_encoder: brings words there.
        options: kept as an attribute that may be replaced at any time; the next frame goes by it.
        cache: where `embed` looks up embeddings and keeps new ones; None: it encodes all words each time.
        calibration: what logits are divided by, besides the options' temperature, so that confidences are
            calibrated (see calibration.py); an attribute too.
        network: refines cosines where the options say so; None: they stay as they are; an attribute too.
        attributes: what `embed` says of words' looks beside their names; None: nothing; an attribute too.
        seen_names: keys (see `name_key`) of names that the model was trained with pixel labels for; `embed`
            marks them; an attribute too.

    Raises:
        ValueError: the encoders, or they and the network, do not share one space.
    """

    def __init__(
        self,
        image_encoder: ImageEncoder,
        text_encoder: TextEncoder,
        options: SegmenterOptions | None = None,
        cache: EmbeddingCache | None = None,
        calibration: float = 1.0,
        network: RefinementNetwork | None = None,
        attributes: AttributePrompts | None = None,
        seen_names: frozenset[str] = frozenset(),
    ) -> None:
        if image_encoder.dim != text_encoder.dim:
            raise ValueError(
                "expected an image and a text encoder of one space, got "
                f"{image_encoder.name} with {image_encoder.dim} dimensions and "
                f"{text_encoder.name} with {text_encoder.dim}; use a pair that was trained together"
            )
        if network is not None and network.dim != text_encoder.dim:
            raise ValueError(
                f"expected a network over words of {text_encoder.dim} dimensions, as {text_encoder.name} "
                f"gives, got one over {network.dim}; use the one that was trained with these encoders"
            )
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder
        self.options = options if options is not None else SegmenterOptions()
        self.cache = cache
        self.calibration = calibration
        self.network = network
        self.attributes = attributes
        self.seen_names = seen_names

    @classmethod
    def load(
        cls, model: str = "stream", *, models: Path | None = None, threads: int = 0, **options: object
    ) -> "Segmenter":
        """A model, with embeddings cached on disk.

        Args:
            model: 'stream' for speed or 'quality' for detail: the embedded model; or a model file, the name
                of one that comes with the package (see encoders/model_file.py), or a folder of
                `ovs train full`.
            models: the folder with the embedded model's files; None: those that come with the package.
            threads: how many threads of the CPU the process computes with (see runtime/threads.py); 0: one
                for each core that it may use.
            options: fields of SegmenterOptions that shall differ from their defaults.

        Raises:
            TypeError: an option that does not exist, or of another type.
            ValueError: an unknown model, an option out of range, a model without a fitted temperature, or
                weights that do not fit the model.
            FileNotFoundError: weights are missing.
            ModuleNotFoundError: a package that the model needs is not installed.
        """
        from ovs_ros.encoders import embedded

        use_threads(threads)
        checked = SegmenterOptions(**options)  # type: ignore[arg-type]  # checked at run time, field by field
        file = None if model in embedded.PRESETS else read_model_file(find_model_file(model))
        if file is not None and not file.embedded:
            image, text = load_model(file)
            if file.exported:
                return cls(image, text, checked, EmbeddingCache())
            from ovs_ros.steps.torch_frame import TorchSegmenter

            return TorchSegmenter(image, text, checked, EmbeddingCache())
        folder = models if models is not None else embedded.MODELS
        model, own = (model, "") if file is None else (file.model, file.network)
        image, text = embedded.load(model, models=folder)
        temperature = load_temperature(model, folder)
        network = RefinementNetwork(Path(own) if own else folder / NETWORK_FILE)
        seen_names = embedded.load_seen_names(folder)
        return cls(image, text, checked, EmbeddingCache(), temperature, network, seen_names=seen_names)

    def embed(
        self, vocabulary: Vocabulary, progress: Callable[[int, int], None] | None = None
    ) -> EmbeddedVocabulary:
        """Embed the words. Words that the cache lacks take the text encoder's time: not for the frame path.

        Args:
            vocabulary: the words.
            progress: called now and then with how many words are done and how many there are.

        Raises:
            VocabularyError: a category's prompts cancel each other out, or there are more words than the
                model can keep the prompts of.
        """
        return embed(vocabulary, self.text_encoder, self.cache, progress, self.attributes, self.seen_names)

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
        clock = _StageClock()
        features, selection, logits = self._score(image, words, options, clock)
        columns, confidence = decode(logits, features, (image.shape[0], image.shape[1]))
        clock.stage("decode")
        if options.validation != "off":
            scale = self.image_encoder.logit_scale
            with _BLAS.limit(limits=1):
                columns, selection = validate_tags(
                    columns, logits, features, selection, words, scale, options
                )
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

    def score(
        self, image: NDArray[np.uint8], words: EmbeddedVocabulary, options: SegmenterOptions | None = None
    ) -> Scored:
        """How well each node of the fine grid goes with each word, before any pixel is decided.

        Args:
            image: as in `segment`.
            words: as in `segment`.
            options: in place of the segmenter's own.

        Raises:
            TypeError, ValueError: as in `segment`.
        """
        return self._score(image, words, options or self.options, _StageClock())

    def _score(
        self,
        image: NDArray[np.uint8],
        words: EmbeddedVocabulary,
        options: SegmenterOptions,
        clock: "_StageClock",
    ) -> Scored:
        encoder = self.image_encoder
        _check_image(image)
        if words.embeddings.shape[1] != encoder.dim:
            raise ValueError(
                f"expected words of {encoder.dim} dimensions for {encoder.name}, got "
                f"{words.embeddings.shape[1]}; embed them with this segmenter"
            )
        prepared = encoder.prepare(image)
        clock.stage("prepare")
        encoded = encoder.backbone(prepared)
        clock.stage("encode")
        features = with_fine_grid(encoder.project(encoded), options.postprocess)
        clock.stage("project")
        scale = encoder.logit_scale
        with _BLAS.limit(limits=1):
            # Selection's settings were chosen at the scale of training; no temperature moves them.
            selection = select(features, words, scale, options) if options.select else everything(words)
            clock.stage("select")
            temperature = options.temperature * self.calibration
            network = self.network if options.network else None
            most = REFINED if options.select else MOST_WORDS
            prompts = None if words.prompts is None else words.prompts[selection.rows]
            embeddings = words.embeddings[selection.rows]
            logits = align(features, embeddings, scale, temperature, network, most, prompts)
            clock.stage("align")
            if options.postprocess != "none":
                logits = refine(logits, features, image, options.postprocess)
                clock.stage("postprocess")
        return Scored(features, selection, logits)


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
