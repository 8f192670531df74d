"""From a model that gives NaN or infinity comes no label: the segmenter and the command say so."""

from dataclasses import replace

import numpy as np
import pytest
from fakes import ColorImageEncoder, ColorTextEncoder, color_image, color_segmenter
from typer.testing import CliRunner

import ovs_ros
from ovs_ros.cli.main import app
from ovs_ros.model import Model
from ovs_ros.runtime.finite import NotFiniteError
from ovs_ros.runtime.images import write_image
from ovs_ros.segmenter import Segmenter, SegmenterOptions
from ovs_ros.vocabulary.vocabulary import Vocabulary

IMAGE = color_image([["red", "green", "blue"]])
BAD = [np.nan, np.inf, -np.inf]
pytestmark = pytest.mark.fault(
    "a model gives NaN or infinity",
    "no label from it: the frame is dropped and counted, ERROR in /diagnostics",
)


class BrokenImageEncoder(ColorImageEncoder):
    """Gives one bad value in one part of the features."""

    def __init__(self, part, value):
        super().__init__()
        self.part, self.value = part, value

    def encode(self, image):
        features = super().encode(image)
        broken = features.head.embeddings if self.part == "head" else getattr(features, self.part)
        broken.reshape(-1)[3] = self.value
        return features


class BrokenTextEncoder(ColorTextEncoder):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def encode(self, texts):
        embeddings = super().encode(texts)
        embeddings[-1, 0] = self.value
        return embeddings


def broken_segmenter(part, value, **options):
    return Segmenter(Model(BrokenImageEncoder(part, value), ColorTextEncoder()), SegmenterOptions(**options))


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("part", ["class_token", "patch_tokens", "head"])
@pytest.mark.parametrize("options", [{}, {"select": False}, {"postprocess": "pamr"}], ids=str)
def test_no_label_comes_from_it(part, value, options):
    segmenter = broken_segmenter(part, value, **options)
    words = segmenter.embed(Vocabulary.from_names(["red", "green", "blue"]))
    for call in (segmenter.segment, segmenter.score):
        with pytest.raises(NotFiniteError, match=r"from fake-colours.*NaN or infinity; try"):
            call(IMAGE, words)


@pytest.mark.parametrize("value", BAD)
def test_no_word_comes_from_it(value):
    segmenter = color_segmenter()
    broken = replace(segmenter, model=replace(segmenter.model, text_encoder=BrokenTextEncoder(value)))
    with pytest.raises(NotFiniteError, match="text embeddings from fake-colour-words"):
        broken.embed(Vocabulary.from_names(["red", "green"]))


def test_the_command_ends_with_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(ovs_ros, "load", lambda name, **_: broken_segmenter("patch_tokens", np.nan))
    write_image(tmp_path / "a.png", IMAGE)
    result = CliRunner().invoke(
        app, ["segment", str(tmp_path / "a.png"), "--words", "red", "-o", str(tmp_path / "out")]
    )
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1 and "NaN or infinity" in result.stderr
    assert not list((tmp_path / "out").iterdir())
