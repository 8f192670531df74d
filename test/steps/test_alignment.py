"""Words on their way to the pixels, with their prompts apart where a decoder wants them."""

from dataclasses import replace

import numpy as np
from fakes import ColorImageEncoder, ColorTextEncoder, color_image
from numpy.typing import NDArray

from ovs_ros.encoders.features import Features
from ovs_ros.encoders.heads import Array, Change, CosineHead, Valid, Words
from ovs_ros.model import Model
from ovs_ros.options import SegmenterOptions
from ovs_ros.segmenter import Segmenter
from ovs_ros.steps.alignment import align
from ovs_ros.vocabulary.vocabulary import CategorySpec, Vocabulary


class FirstPrompts:
    """Decodes with the first prompt of each word, and keeps what it was asked for."""

    separable = False

    def __init__(self, pixels: Array) -> None:
        self.plain = CosineHead(pixels, 20.0)
        self.asked: Array | None = None

    @property
    def grid(self) -> tuple[int, int]:
        return self.plain.grid

    def logits(self, words: Words, added: Array | None = None) -> Array:
        self.asked = words
        return self.plain.logits(words[:, 0].astype(np.float32), added)

    def changed(self, change: Change, valid: Valid) -> "FirstPrompts":
        raise NotImplementedError


class FirstPromptEncoder(ColorImageEncoder):
    """Its decoder listens to each word's first prompt only."""

    def encode(self, image: NDArray[np.uint8]) -> Features:
        plain = super().encode(image)
        assert isinstance(plain.head, CosineHead)
        return replace(plain, head=FirstPrompts(plain.head.embeddings))


class KeepingTextEncoder(ColorTextEncoder):
    name = "fake-colour-words, apart"
    keeps_prompts = True


def test_prompts_reach_the_decoder_as_they_are() -> None:
    encoder = FirstPromptEncoder()
    features = encoder.encode(color_image([["red", "blue"]]))
    words = ColorTextEncoder().encode(["red", "green", "blue"])
    prompts = np.stack([words[[1, 0, 2]], words], axis=1).astype(np.float16)  # (3, 2, D)
    logits = align(features, words, prompts, temperature=2.0)
    assert isinstance(features.head, FirstPrompts) and features.head.asked is prompts
    decoded = features.head.plain.logits(prompts[:, 0].astype(np.float32))
    np.testing.assert_allclose(logits, decoded / 2, rtol=1e-5)
    assert logits[0, 0].argmax() == 1 and logits[0, -1].argmax() == 2


def test_selection_goes_by_the_mean_and_the_decision_by_the_prompts() -> None:
    # The means have it the other way round than the first prompts, which are all that the decoder hears.
    warm = CategorySpec("warm", ("red thing", "blue thing", "blue toy"))
    cold = CategorySpec("cold", ("blue thing", "red thing", "red toy"))
    vocabulary = Vocabulary.from_specs([warm, cold])
    image = color_image([["red", "blue"]])
    for select in (True, False):
        model = Model(FirstPromptEncoder(), KeepingTextEncoder())
        segmenter = Segmenter(model, SegmenterOptions(select=select, validation="off"))
        labels = segmenter.segment(image, segmenter.embed(vocabulary)).labels
        assert (labels[:, :24] == vocabulary.ids[0]).all() and (labels[:, -24:] == vocabulary.ids[1]).all()
