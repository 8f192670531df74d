"""Words on their way to the pixels, with their prompts apart where a decoder wants them."""

from dataclasses import replace

import numpy as np
from fakes import ColorImageEncoder, ColorTextEncoder, color_image

from ovs_ros.encoders.features import Features
from ovs_ros.encoders.heads import Array, Change, CosineHead, Valid, Words
from ovs_ros.segmenter import Segmenter, SegmenterOptions
from ovs_ros.steps.alignment import align
from ovs_ros.vocabulary.vocabulary import CategorySpec, Vocabulary


class FirstPrompts:
    """Decodes with the first prompt of each word, and keeps what it was asked for."""

    def __init__(self, pixels: Array) -> None:
        self.plain = CosineHead(pixels)
        self.asked: Array | None = None

    @property
    def grid(self) -> tuple[int, int]:
        return self.plain.grid

    def cosines(self, words: Words, added: Array | None = None) -> Array:
        self.asked = words
        return self.plain.cosines(words[:, 0].astype(np.float32), added)

    def changed(self, change: Change, valid: Valid) -> "FirstPrompts":
        raise NotImplementedError


class FirstPromptEncoder(ColorImageEncoder):
    """Its decoder listens to each word's first prompt only."""

    def project(self, features: tuple[Array, Valid]) -> Features:
        plain = super().project(features)
        assert isinstance(plain.upsampling, CosineHead)
        return replace(plain, upsampling=FirstPrompts(plain.upsampling.pixels))


class KeepingTextEncoder(ColorTextEncoder):
    name = "fake-colour-words, apart"
    keeps_prompts = True


def test_prompts_reach_the_decoder_as_they_are() -> None:
    encoder = FirstPromptEncoder()
    features = encoder.project(encoder.backbone(encoder.prepare(color_image([["red", "blue"]]))))
    words = ColorTextEncoder().encode(["red", "green", "blue"])
    prompts = np.stack([words[[1, 0, 2]], words], axis=1).astype(np.float16)  # (3, 2, D)
    logits = align(features, words, 20.0, 2.0, prompts=prompts)
    assert isinstance(features.upsampling, FirstPrompts) and features.upsampling.asked is prompts
    decoded = features.upsampling.plain.cosines(prompts[:, 0].astype(np.float32))
    np.testing.assert_allclose(logits, 10 * decoded, rtol=1e-5)
    assert logits[0, 0].argmax() == 1 and logits[0, -1].argmax() == 2


def test_selection_goes_by_the_mean_and_the_decision_by_the_prompts() -> None:
    # The means have it the other way round than the first prompts, which are all that the decoder hears.
    warm = CategorySpec("warm", ("red thing", "blue thing", "blue toy"))
    cold = CategorySpec("cold", ("blue thing", "red thing", "red toy"))
    vocabulary = Vocabulary.from_specs([warm, cold])
    image = color_image([["red", "blue"]])
    for select in (True, False):
        segmenter = Segmenter(
            FirstPromptEncoder(), KeepingTextEncoder(), SegmenterOptions(select=select, validation="off")
        )
        labels = segmenter.segment(image, segmenter.embed(vocabulary)).labels
        assert (labels[:, :24] == vocabulary.ids[0]).all() and (labels[:, -24:] == vocabulary.ids[1]).all()
