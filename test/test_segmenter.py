from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from fakes import (
    ColorImageEncoder,
    ColorTextEncoder,
    TogetherImageEncoder,
    color_image,
    color_segmenter,
)
from threadpoolctl import threadpool_info

import ovs_ros
from ovs_ros.encoders.embedded import MODELS
from ovs_ros.model import Model
from ovs_ros.segmenter import Segmenter, SegmenterOptions
from ovs_ros.vocabulary.vocabulary import CategorySpec, Vocabulary

STRIPES = [["red", "green", "blue"]]


def expected(ids, size=32):
    return np.array(ids).repeat(size, axis=0).repeat(size, axis=1)


@pytest.mark.parametrize("select", [True, False])
def test_plain_areas_get_their_names(select):
    segmenter = color_segmenter(select=select)
    words = segmenter.embed(Vocabulary.from_names(["green", "chair", "red", "blue"]))
    result = segmenter.segment(color_image(STRIPES), words)
    np.testing.assert_array_equal(result.labels, expected([[2, 0, 3]]))
    assert result.labels.dtype == np.uint8 and result.labels.flags.c_contiguous
    assert result.confidence.shape == (32, 96) and result.confidence.dtype == np.uint8
    assert result.selected_names == (
        ("green", "red", "blue") if select else ("green", "chair", "red", "blue")
    )
    assert result.selected_ids.dtype == np.uint16
    assert list(result.stages_ms) == ["prepare", "encode", "project", "select", "align", "decode", "validate"]
    assert result.version == 1 and result.unknown_id == 255


@pytest.mark.parametrize("encoder", [ColorImageEncoder, TogetherImageEncoder])
def test_several_images_give_what_each_gives(encoder):
    model = Model(encoder(), ColorTextEncoder())
    segmenter = Segmenter(model)
    words = segmenter.embed(Vocabulary.from_names(["green", "chair", "red", "blue"]))
    images = [color_image(rows) for rows in (STRIPES, [["blue"], ["red"]], STRIPES)]
    results = segmenter.segment_batch(images, words, SegmenterOptions(threshold=0.1))
    for image, result in zip(images, results, strict=True):
        alone = segmenter.segment(image, words, SegmenterOptions(threshold=0.1))
        np.testing.assert_array_equal(result.labels, alone.labels)
        np.testing.assert_array_equal(result.confidence, alone.confidence)
        assert list(result.stages_ms) == list(alone.stages_ms)
    assert segmenter.segment_batch([], words) == []
    with pytest.raises(ValueError, match="height, width, 3"):
        segmenter.segment_batch([images[0], images[1][..., 0]], words)


@pytest.mark.parametrize("size", [(1, 1), (5, 200), (33, 47), (480, 640)])
def test_any_size_goes_in(size):
    segmenter = color_segmenter()
    words = segmenter.embed(Vocabulary.from_names(["red", "blue"]))
    image = np.zeros((*size, 3), np.uint8)
    image[..., 2] = 255
    result = segmenter.segment(image, words)
    assert result.labels.shape == size and (result.labels == 1).all()
    assert result.shares.sum() + result.unknown_share == pytest.approx(1)


def test_a_view_with_strides_goes_in_and_stays_as_it_is():
    segmenter = color_segmenter()
    words = segmenter.embed(Vocabulary.from_names(["red", "green", "blue"]))
    bgr = color_image(STRIPES)[:, :, ::-1].copy()
    before = bgr.copy()
    result = segmenter.segment(bgr[:, :, ::-1], words)
    np.testing.assert_array_equal(result.labels, expected([[0, 1, 2]]))
    np.testing.assert_array_equal(bgr, before)


def test_what_a_negative_wins_is_unknown():
    segmenter = color_segmenter()
    words = segmenter.embed(Vocabulary.from_names(["red", "blue"], negatives=["green"]))
    result = segmenter.segment(color_image(STRIPES), words)
    np.testing.assert_array_equal(result.labels, expected([[0, 255, 1]]))
    np.testing.assert_allclose(result.shares, [1 / 3, 1 / 3], atol=1e-6)
    assert result.unknown_share == pytest.approx(1 / 3)


def test_a_frame_of_negatives_alone_is_unknown():
    segmenter = color_segmenter(rule="top_n")
    words = segmenter.embed(Vocabulary.from_names(["red"], negatives=["green"]))
    result = segmenter.segment(color_image([["green"]]), words)
    assert (result.labels == 255).all() and result.unknown_share == 1
    assert result.selected_names == () and result.shares.shape == (0,)


def test_temperatures_change_confidences_and_no_best_word():
    segmenter = color_segmenter()
    words = segmenter.embed(Vocabulary.from_names(["red", "green", "blue", "yellow"]))
    image = color_image([["red", "orange"], ["blue", "green"]])
    plain = segmenter.segment(image, words)
    warm = segmenter.segment(image, words, SegmenterOptions(temperature=9.0))
    fitted = replace(segmenter, model=replace(segmenter.model, temperature=1.5))
    both = fitted.segment(image, words, SegmenterOptions(temperature=6.0))
    np.testing.assert_array_equal(plain.labels, warm.labels)
    np.testing.assert_array_equal(plain.scores, warm.scores)
    assert warm.confidence.mean() < plain.confidence.mean() - 5
    np.testing.assert_array_equal(warm.confidence, both.confidence)


def test_scores_are_what_a_frame_is_decided_by():
    segmenter = color_segmenter()
    words = segmenter.embed(Vocabulary.from_names(["red", "chair", "blue"], negatives=["green"]))
    image = color_image(STRIPES)
    scored = segmenter.score(image, words)
    assert scored.logits.shape == (4, 12, 3)  # red, blue and the negative
    np.testing.assert_array_equal(scored.selection.classes, [0, 2])
    every = segmenter.score(image, words, SegmenterOptions(select=False))
    np.testing.assert_allclose(every.logits[..., [0, 2, 3]], scored.logits, atol=1e-4)


def test_below_its_threshold_a_pixel_is_unknown():
    segmenter = color_segmenter(temperature=5.0)
    specs = [CategorySpec("red", threshold=1.0), CategorySpec("blue", threshold=0.0), "green"]
    words = segmenter.embed(Vocabulary.from_specs(specs))
    result = segmenter.segment(color_image(STRIPES), words)
    assert (result.labels[:, :30] == 255).all()
    assert (result.labels[:, 34:62] == 2).all() and (result.labels[:, 66:] == 1).all()
    sure = SegmenterOptions(temperature=5.0, threshold=1.0)
    result = segmenter.segment(color_image(STRIPES), words, sure)
    assert (result.labels[:, :62] == 255).all() and (result.labels[:, 66:] == 1).all()


def test_ids_follow_their_names_through_a_change():
    segmenter = color_segmenter()
    first = Vocabulary.from_names(["red", "green", "blue"])
    second = first.removed(["red"]).added(["yellow"])
    result = segmenter.segment(color_image([["green", "yellow"]]), segmenter.embed(second))
    np.testing.assert_array_equal(result.labels, expected([[1, 3]]))
    assert result.version == 3


def test_a_wide_vocabulary_gives_16_bit_labels():
    segmenter = color_segmenter()
    names = [f"thing number {i}" for i in range(600)] + ["red", "blue"]
    words = segmenter.embed(Vocabulary.from_names(names, negatives=["green"]))
    for select in (True, False):
        result = segmenter.segment(color_image(STRIPES), words, SegmenterOptions(select=select))
        np.testing.assert_array_equal(result.labels, expected([[600, 65535, 601]]))
        assert result.labels.dtype == np.uint16 and result.unknown_id == 65535


def test_frames_do_not_share_their_results():
    segmenter = color_segmenter()
    words = segmenter.embed(Vocabulary.from_names(["red", "blue"]))
    first = segmenter.segment(color_image([["red"]]), words)
    segmenter.segment(color_image([["blue"]]), words)
    assert (first.labels == 0).all()


def test_blas_threads_are_as_many_after_a_frame_as_before():
    segmenter = color_segmenter()
    words = segmenter.embed(Vocabulary.from_names(["red", "blue"]))
    before = threadpool_info()
    segmenter.segment(color_image([["red"]]), words)
    assert threadpool_info() == before


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        ([[0]], TypeError, "expected an image as a uint8 array, got list"),
        (np.zeros((4, 4, 3), np.float32), TypeError, "got dtype float32"),
        (np.zeros((4, 4), np.uint8), ValueError, r"\(height, width, 3\), got \(4, 4\)"),
        (np.zeros((4, 4, 4), np.uint8), ValueError, r"got \(4, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, r"got \(0, 4, 3\)"),
    ],
)
def test_what_is_no_image_is_refused(image, error, message):
    segmenter = color_segmenter()
    words = segmenter.embed(Vocabulary.from_names(["red"]))
    with pytest.raises(error, match=message):
        segmenter.segment(image, words)


class NarrowTextEncoder(ColorTextEncoder):
    name = "narrow"
    dim = 8

    def encode(self, texts):
        return np.eye(8, dtype=np.float32)[: len(texts)]


def test_encoders_and_words_of_two_spaces_are_refused():
    with pytest.raises(ValueError, match="one space, got fake-colours with 48 dimensions and narrow with 8"):
        Model(ColorImageEncoder(), NarrowTextEncoder())
    from ovs_ros.vocabulary.prompts import embed

    narrow = embed(Vocabulary.from_names(["red"], negatives=["x"]), NarrowTextEncoder())
    with pytest.raises(ValueError, match="expected words of 48 dimensions"):
        color_segmenter().segment(color_image([["red"]]), narrow)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"theta": 1.1}, ValueError),
        ({"theta": float("nan")}, ValueError),
        ({"theta": "high"}, TypeError),
        ({"threshold": -0.1}, ValueError),
        ({"max_categories": 0}, ValueError),
        ({"shortlist": 1.5}, TypeError),
        ({"postprocess": "crf"}, ValueError),
        ({"temperature": 0.0}, ValueError),
        ({"select": 1}, TypeError),
        ({"rule": "best"}, ValueError),
        ({"top_n": 0}, ValueError),
        ({"validation": "on"}, ValueError),
        ({"validation_top_k": True}, TypeError),
        ({"network": "on"}, TypeError),
        ({"validate_seen": "no"}, TypeError),
    ],
)
def test_options_out_of_range_are_refused(options, error):
    with pytest.raises(error, match=f"expected {next(iter(options))}"):
        SegmenterOptions(**options)


def test_a_segmenter_is_immutable_and_another_one_is_made_of_it():
    segmenter = color_segmenter()
    with pytest.raises(FrozenInstanceError):
        segmenter.options = SegmenterOptions()
    with pytest.raises(FrozenInstanceError):
        segmenter.model.temperature = 2.0
    other = replace(segmenter, options=SegmenterOptions(select=False))
    assert other.model is segmenter.model and segmenter.options.select and not other.options.select
    with pytest.raises(TypeError, match="expected options to be a SegmenterOptions, got dict"):
        replace(segmenter, options={"select": False})
    with pytest.raises(ValueError, match="expected a positive temperature"):
        replace(segmenter.model, temperature=0.0)


def test_a_folder_with_the_embedded_model_loads_and_unknown_names_are_refused():
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    by_name, by_folder = (ovs_ros.load(name) for name in ("stream", MODELS))
    words = by_name.embed(Vocabulary.from_names(["dog", "sofa"]))
    first, second = (one.segment(image, words) for one in (by_name, by_folder))
    np.testing.assert_array_equal(first.labels, second.labels)
    np.testing.assert_array_equal(first.confidence, second.confidence)
    with pytest.raises(ValueError, match="expected the model to be stream, quality"):
        ovs_ros.load("fast")


def test_public_names_are_there():
    assert callable(ovs_ros.load)
    for name in ovs_ros.__all__:
        assert getattr(ovs_ros, name) is not None
