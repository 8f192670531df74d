"""The frame on the device gives what the segmenter's own way gives."""

import logging
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[clip]')")

from torch_models import NoWaiting, TinyDecoding, TinyDense, noise_image, one_thread  # noqa: E402, F401

import ovs_ros  # noqa: E402
from ovs_ros.cli import bench  # noqa: E402
from ovs_ros.encoders.clip.image_encoder import TorchImageEncoder  # noqa: E402
from ovs_ros.encoders.clip.text_encoder import ClipTextEncoder  # noqa: E402
from ovs_ros.model import Model  # noqa: E402
from ovs_ros.options import SegmenterOptions  # noqa: E402
from ovs_ros.runtime.finite import NotFiniteError  # noqa: E402
from ovs_ros.segmenter import Segmenter  # noqa: E402
from ovs_ros.steps.segmentation import Segmentation  # noqa: E402
from ovs_ros.steps.torch_frame import TorchFrame, refusal  # noqa: E402
from ovs_ros.vocabulary.category import Category, CategorySpec  # noqa: E402
from ovs_ros.vocabulary.examples import Example, encoded  # noqa: E402
from ovs_ros.vocabulary.vocabulary import Vocabulary  # noqa: E402
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings  # noqa: E402


def pair(model: TinyDense | None = None, patches: int = 150, **options: Any) -> tuple[Segmenter, Segmenter]:
    """The steps one by one, and whole frames on the device, over the same model."""
    model = model or TinyDense()
    settings: dict[str, Any] = {"device": "cpu", "precision": "fp32", "batches_on_cpu": True}
    encoder = TorchImageEncoder(model, patches=patches, **settings)
    own = Segmenter(Model(encoder, ClipTextEncoder(model, ("{}",))), SegmenterOptions(**options))
    return own, replace(own, frame_path=TorchFrame(encoder, on_cpu=True))


def embedded(count: int, negatives: int = 0, seed: int = 0) -> WordEmbeddings:
    """Random words, every third category with a threshold of its own."""
    categories = tuple(
        Category(f"thing {number}", id=number, threshold=0.3 if number % 3 == 0 else None)
        for number in range(count)
    )
    vocabulary = Vocabulary(categories, negatives=tuple(f"not {number}" for number in range(negatives)))
    embeddings = np.random.default_rng(seed).standard_normal((count + negatives, TinyDense.dim))
    return WordEmbeddings(vocabulary, embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True))


def assert_same(own: Segmentation, device: Segmentation) -> None:
    assert own.labels.dtype == device.labels.dtype and own.labels.shape == device.labels.shape
    assert (own.labels == device.labels).mean() >= 0.999
    # Where two words tie, the one's share may be far from the other's.
    assert (np.abs(own.confidence.astype(int) - device.confidence.astype(int)) <= 2).mean() >= 0.999
    assert own.selected_names == device.selected_names
    np.testing.assert_array_equal(own.selected_ids, device.selected_ids)
    np.testing.assert_allclose(own.scores, device.scores, atol=1e-4)
    np.testing.assert_allclose(own.shares, device.shares, atol=1e-3)
    assert device.unknown_share == pytest.approx(own.unknown_share, abs=1e-3)
    assert device.labels.flags.c_contiguous and device.labels.flags.writeable


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"select": False},
        {"rule": "top_n", "top_n": 2},
        {"rule": "top_n", "top_n": 500},
        {"theta": 0.01},
        {"max_categories": 3},
        {"max_categories": 1},
        {"threshold": 0.2},
        {"temperature": 3.0},
        {"shortlist": 40},
        {"shortlist": 40, "max_categories": 4},
    ],
    ids=str,
)
@pytest.mark.parametrize("negatives", [0, 5])
def test_the_answer_is_the_segmenters(options: dict[str, Any], negatives: int) -> None:
    own, device = pair(**options)
    words = embedded(45, negatives)
    assert refusal(device.model.image_encoder, words, device.options, network=False) is None
    for shape in ((240, 320), (67, 131)):
        image = noise_image(*shape)
        result = device.segment(image, words)
        assert set(result.stages_ms) == {"prepare", "launch", "wait"}
        assert_same(own.segment(image, words), result)


def test_wide_vocabularies_get_wide_labels() -> None:
    own, device = pair()
    words = embedded(300)
    image = noise_image(120, 160)
    assert device.segment(image, words).labels.dtype == np.uint16
    assert_same(own.segment(image, words), device.segment(image, words))


def test_where_negatives_win_everything_all_is_unknown() -> None:
    own, device = pair(patches=12)
    image = noise_image(120, 160)
    patches = own.model.encode(image).patch_tokens.reshape(12, -1)
    vocabulary = Vocabulary.from_names(["a"], negatives=tuple(f"not {number}" for number in range(12)))
    words = WordEmbeddings(vocabulary, np.concatenate((-patches[:1], patches)))
    result = device.segment(image, words)
    assert result.unknown_share == 1.0 and result.selected_names == ()
    assert (result.labels == result.unknown_id).all()
    assert_same(own.segment(image, words), result)


def test_vocabularies_and_thresholds_change_between_frames() -> None:
    own, device = pair()
    image = noise_image(120, 160)
    for count, seed, threshold in ((30, 0, 0.0), (30, 1, 0.0), (20, 1, 0.0), (20, 1, 0.4), (60, 2, 0.4)):
        options, words = SegmenterOptions(threshold=threshold), embedded(count, seed=seed)
        assert_same(own.segment(image, words, options), device.segment(image, words, options))


def test_a_vocabulary_of_the_same_capacity_costs_no_new_graph() -> None:
    device = pair()[1]
    encoder, image = device.model.image_encoder, noise_image(120, 160)
    made = []
    static_call = encoder.static_call
    encoder.static_call = lambda function: made.append(function) or static_call(function)
    device.segment(image, embedded(30))
    first = len(made)  # the encoder's own graph for such images, and the frame's
    for seed, threshold in ((1, 0.0), (1, 0.5)):
        device.segment(image, embedded(30, seed=seed), SegmenterOptions(threshold=threshold))
    assert len(made) == first
    device.segment(image, embedded(40))
    assert len(made) == first + 1


def test_after_a_memory_fallback_frames_go_on_as_the_steps_decide() -> None:
    own, device = pair()
    image, words = noise_image(120, 160), embedded(30)
    before = device.segment(image, words)
    assert device.model.image_encoder.fall_back(1) and device.model.fallbacks
    assert device.model.image_encoder.footprint.patches == 75
    after = device.segment(image, words)
    assert_same(own.segment(image, words), after)
    assert (before.confidence != after.confidence).any()


def test_frames_do_not_share_memory() -> None:
    device = pair()[1]
    words = embedded(30)
    first = device.segment(noise_image(120, 160), words)
    kept = first.labels.copy()
    device.segment(noise_image(120, 160, seed=1), words)
    np.testing.assert_array_equal(first.labels, kept)


@pytest.mark.parametrize(
    "options",
    [{}, {"select": False}, {"rule": "top_n"}, {"theta": 0.01}, {"shortlist": 20}],
    ids=str,
)
def test_nothing_in_a_frame_depends_on_values_so_that_it_can_be_a_graph(options: dict[str, Any]) -> None:
    device = pair(**options)[1]
    words, images = embedded(30, negatives=3), [noise_image(240, 320, seed) for seed in range(3)]
    device.segment_batch(images, words)
    with NoWaiting():  # two frames together, and one
        assert all("launch" in result.stages_ms for result in device.segment_batch(images, words))


@pytest.mark.parametrize(
    "options",
    [
        {"validation": "relabel"},
        {"validation": "reject", "validation_top_k": 1},
        {"postprocess": "pamr"},
        {"postprocess": "propagation"},
        {"select": False},
    ],
    ids=str,
)
def test_what_the_device_cannot_do_the_steps_do_and_the_log_says_why_once(
    options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    own, device = pair(**options)
    words, image = embedded(150), noise_image(120, 160)
    reason = refusal(device.model.image_encoder, words, device.options, network=False)
    assert reason is not None
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            result = device.segment(image, words)
    assert [reason in record.message for record in caplog.records] == [True]  # said once
    assert "encode" in result.stages_ms
    assert_same(own.segment(image, words), result)


def test_models_that_decode_go_the_segmenters_way() -> None:
    own, device = pair(TinyDecoding())
    words, image = embedded(20), noise_image(120, 160)
    assert_same(own.segment(image, words), device.segment(image, words))


def test_words_with_examples_go_the_segmenters_way() -> None:
    own, device = pair()
    image = noise_image(120, 160)
    shown = (Example(encoded(image), box=(0, 0, 80, 120)),)
    vocabulary = Vocabulary.from_specs(["a", CategorySpec("bay 7", examples=shown, examples_only=True), "b"])
    words = device.embed(vocabulary)
    reason = refusal(device.model.image_encoder, words, device.options, network=False)
    assert reason == "categories have examples"
    result = device.segment(image, words)
    assert "bay 7" in result.selected_names
    assert_same(own.segment(image, words), result)


def test_on_a_cpu_the_segmenters_way_is_taken() -> None:
    device = pair()[1]
    device = replace(device, frame_path=TorchFrame(device.model.image_encoder))
    assert "encode" in device.segment(noise_image(120, 160), embedded(20)).stages_ms


def test_wrong_images_are_refused_as_by_the_segmenter() -> None:
    device = pair()[1]
    with pytest.raises(TypeError, match="uint8"):
        device.segment(noise_image(120, 160).astype(np.float32), embedded(20))
    with pytest.raises(ValueError, match="height, width, 3"):
        device.segment(noise_image(120, 160)[..., 0], embedded(20))


def test_a_full_memory_costs_resolution_and_no_frame() -> None:
    own, device = pair(TinyDense(most_pixels=320 * 240), patches=600)
    words, image = embedded(30), noise_image(480, 640)
    first = device.segment(image, words)
    assert device.model.image_encoder.footprint.patches == 300
    assert len(device.model.fallbacks) == 1
    second = device.segment(image, words)
    assert "launch" in second.stages_ms
    assert_same(first, second)


def test_a_model_file_of_a_torch_model_loads_a_segmenter_of_whole_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = pair()[0]
    file = tmp_path / "tiny.yaml"
    file.write_text("model: tiny\n", encoding="utf-8")
    encoder = own.model.image_encoder
    monkeypatch.setattr(import_module("ovs_ros.load"), "open_model", lambda file: own.model)
    assert ovs_ros.load(str(file)).frame_path is None  # on a CPU the steps are faster one by one
    monkeypatch.setattr(encoder, "stream", object())
    segmenter = ovs_ros.load(str(file), theta=0.25)
    assert isinstance(segmenter.frame_path, TorchFrame) and segmenter.options.theta == 0.25


def test_the_benchmark_times_frames_of_both_ways_side_by_side() -> None:
    device = pair(max_categories=100)[1]
    words = {20: embedded(20), 150: embedded(150, negatives=30)}
    results = bench.measure(device, words, noise_image(120, 160), 20)
    assert set(results["stages_ms"]["20"]) == {"prepare", "launch", "wait"}
    assert "encode" in results["stages_ms"]["150"]
    bench.print_times(results, "cpu")
    assert bench.measure_batch(device.model.image_encoder, 2, 2) > 0
    together = bench.measure_together(device, words[20], noise_image(120, 160), 2, 2)
    assert set(together) == {"together", "alone"} and min(together.values()) > 0


@pytest.mark.parametrize("count", [45, 300], ids=["narrow", "wide"])
def test_frames_together_give_what_each_gives_alone(count: int) -> None:
    model = TinyDense()
    own, device = pair(model)
    words = embedded(count, negatives=5)
    # The first size is shrunk and has an odd number of pixels; the second is enlarged; the last is alone.
    shapes = [(241, 321), (67, 131), (241, 321), (241, 321), (67, 131), (48, 48)]
    images = [noise_image(*shape, seed) for seed, shape in enumerate(shapes)]
    for _ in range(2):
        del model.batches[:]
        results = device.segment_batch(images, words)
        assert sorted(batch[0] for batch in model.batches) == [1, 1, 2, 2]
        for image, result in zip(images, results, strict=True):
            assert set(result.stages_ms) == {"prepare", "launch", "wait"}
            assert_same(own.segment(image, words), result)


def test_frames_that_do_not_fit_together_are_segmented_one_by_one_from_then_on() -> None:
    own, device = pair(TinyDense(most_pixels=2 * 160 * 224), patches=140)
    words, images = embedded(30), [noise_image(120, 160, seed) for seed in range(4)]
    for stage in ("encode", "launch"):
        results = device.segment_batch(images, words)
        assert all(stage in result.stages_ms for result in results)
        for image, result in zip(images, results, strict=True):
            assert_same(own.segment(image, words), result)
    assert device.model.fallbacks == ("runs images one by one, because the memory of cpu was full",)


def test_one_frame_of_nan_is_told_of_frames_together() -> None:
    class Dark(TinyDense):
        def dense(self, images: Any) -> Any:
            features = super().dense(images)
            features.patches[images.amax((1, 2, 3)) < 0] = torch.nan
            return features

    _, device = pair(Dark())
    images = [noise_image(64, 64), np.zeros((64, 64, 3), np.uint8)]
    with pytest.raises(NotFiniteError, match="image embeddings from tiny"):
        device.segment_batch(images, embedded(5))
    assert device.segment(images[0], embedded(5)).labels.shape == (64, 64)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_model_that_gives_nan_or_infinity_gives_no_label(value: float) -> None:
    model = TinyDense()
    _, device = pair(model)
    words = embedded(5)
    image = noise_image(64, 64)
    device.segment(image, words)
    model.embed.bias[3] = value
    with pytest.raises(NotFiniteError, match="image embeddings from tiny"):
        device.segment(image, words)
