"""Several scales of one encoder."""

import cv2
import numpy as np
import pytest
from fakes import ColorImageEncoder, ColorTextEncoder, color_image, color_segmenter

from ovs_ros.encoders.features import Features
from ovs_ros.encoders.heads import CosineHead, MeanHead
from ovs_ros.encoders.multi_scale import MultiScaleImageEncoder
from ovs_ros.geometry.resample import bilinear_matrix, mirror
from ovs_ros.model import Model
from ovs_ros.segmenter import Segmenter
from ovs_ros.vocabulary.vocabulary import Vocabulary


def test_one_axis_is_resampled_as_opencv_does() -> None:
    line = np.random.default_rng(0).standard_normal((7, 1)).astype(np.float32)
    want = cv2.resize(line, (1, 18), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(bilinear_matrix(7, 1.0, 18, 1.0) @ line, want, atol=1e-5)


def test_grids_are_aligned_by_what_the_image_covers() -> None:
    """A ramp over the image, seen by a grid with half of it padding and by one without, is the same ramp."""
    padded = (np.arange(8, dtype=np.float32) + 0.5) / 4
    whole = (np.arange(12, dtype=np.float32) + 0.5) / 12
    np.testing.assert_allclose((bilinear_matrix(8, 0.5, 12, 1.0) @ padded)[2:-2], whole[2:-2], atol=1e-6)


def test_mean_is_taken_on_the_finest_grid() -> None:
    rng = np.random.default_rng(0)
    fine = rng.standard_normal((6, 8, 4)).astype(np.float32)
    coarse = rng.standard_normal((3, 4, 4)).astype(np.float32)
    words = rng.standard_normal((5, 4)).astype(np.float32)
    both = MeanHead((CosineHead(coarse, 1.0), CosineHead(fine, 1.0)), ((1.0, 1.0), (1.0, 1.0)))
    got = both.logits(words)
    assert both.grid == (6, 8) and got.shape == (6, 8, 5)
    for word in range(5):
        up = cv2.resize((coarse @ words[word]), (8, 6), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_allclose(got[..., word], (up + fine @ words[word]) / 2, atol=1e-5)


class HalfSize(ColorImageEncoder):
    """Sees the picture at half its size."""

    name = "half"

    def encode(self, image: np.ndarray) -> Features:
        return super().encode(np.ascontiguousarray(image[::2, ::2]))


def test_segments_like_each_of_its_scales() -> None:
    image = color_image([["red", "blue"], ["green", "yellow"]], size=64)
    names = Vocabulary.from_names(["red", "green", "blue", "yellow"])
    single = color_segmenter()
    both = Segmenter(Model(MultiScaleImageEncoder([HalfSize(), ColorImageEncoder()]), ColorTextEncoder()))
    assert both.model.name == "half+fake-colours"
    want = single.segment(image, single.embed(names)).labels
    got = both.segment(image, both.embed(names)).labels
    assert (got != want).mean() < 0.02


@pytest.mark.parametrize("extent", [1.0, 0.75])
def test_a_mirrored_grid_is_turned_back(extent: float) -> None:
    grid = np.random.default_rng(0).standard_normal((3, 8, 2)).astype(np.float32)
    covered = round(8 * extent)
    np.testing.assert_allclose(mirror(grid, extent)[:, :covered], grid[:, :covered][:, ::-1], atol=1e-6)


def test_a_node_at_a_border_within_a_column_is_between_two() -> None:
    """The image covers 3.5 of 4 columns: what lies at its left end lies at its right end mirrored."""
    ramp = np.arange(4, dtype=np.float32)[None, :, None]
    np.testing.assert_allclose(mirror(ramp, 3.5 / 4)[0, :3, 0], [2.5, 1.5, 0.5], atol=1e-6)


class LeftIsRed(ColorImageEncoder):
    """Takes the left half for red, whatever it is."""

    def encode(self, image: np.ndarray) -> Features:
        changed = image.copy()
        changed[:, : image.shape[1] // 2] = color_image([["red"]], size=1)[0, 0]
        return super().encode(changed)


def test_a_mirrored_image_gives_the_mirrored_logits() -> None:
    image = color_image([["red", "blue"], ["green", "yellow"]], size=64)
    encoder = MultiScaleImageEncoder([HalfSize(), LeftIsRed()])
    words = ColorTextEncoder().encode(["red", "green", "blue", "yellow"])
    logits, turned = (
        encoder.encode(np.ascontiguousarray(picture)).logits(words) for picture in (image, image[:, ::-1])
    )
    np.testing.assert_allclose(logits, turned[:, ::-1], atol=1e-4)


def test_encoders_of_different_spaces_are_refused() -> None:
    other = ColorImageEncoder()
    other.dim = 7
    with pytest.raises(ValueError, match=r"\[48, 7\]"):
        MultiScaleImageEncoder([ColorImageEncoder(), other])
    with pytest.raises(ValueError, match="one space"):
        MultiScaleImageEncoder([])
