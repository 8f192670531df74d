"""The frame on the device gives what the segmenter's own way gives."""

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
from ovs_ros.options import SegmenterOptions  # noqa: E402
from ovs_ros.segmenter import Segmenter  # noqa: E402
from ovs_ros.steps.segmentation import Segmentation  # noqa: E402
from ovs_ros.steps.torch_frame import TorchFrame, TorchSegmenter, _count, serves  # noqa: E402
from ovs_ros.vocabulary.category import Category  # noqa: E402
from ovs_ros.vocabulary.vocabulary import Vocabulary  # noqa: E402
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings  # noqa: E402


def pair(model: TinyDense | None = None, patches: int = 150, **options: Any) -> tuple[Segmenter, Segmenter]:
    """The segmenter's own way, and that on the device, over the same model."""
    model = model or TinyDense()
    encoder = TorchImageEncoder(model, patches=patches, device="cpu", precision="fp32")
    words = ClipTextEncoder(model, ("{}",))
    own, device = (kind(encoder, words, SegmenterOptions(**options)) for kind in (Segmenter, TorchSegmenter))
    device.on_cpu = True
    return own, device


def embedded(count: int, negatives: int = 0, seed: int = 0) -> WordEmbeddings:
    """Random words, every third category with a threshold of its own."""
    categories = tuple(
        Category(number, f"thing {number}", threshold=0.3 if number % 3 == 0 else None)
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
    assert serves(device.image_encoder, words, device.options)
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
    encoder = own.image_encoder
    patches = encoder.project(encoder.backbone(encoder.prepare(image))).patches.reshape(12, -1)
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
        own.options = device.options = SegmenterOptions(threshold=threshold)
        words = embedded(count, seed=seed)
        assert_same(own.segment(image, words), device.segment(image, words))


def test_a_vocabulary_of_the_same_capacity_costs_no_new_graph() -> None:
    encoder = pair()[1].image_encoder
    frame = TorchFrame(encoder)
    image = noise_image(120, 160)
    for seed, threshold in ((0, 0.0), (1, 0.0), (1, 0.5)):
        frame.segment(image, embedded(30, seed=seed), SegmenterOptions(threshold=threshold), 1.0)
    assert len(frame._plans) == 1
    frame.segment(image, embedded(40), SegmenterOptions(), 1.0)
    assert len(frame._plans) == 2


def test_an_image_of_more_pixels_than_a_float_counts_is_counted() -> None:
    winner = torch.zeros(1, 1, dtype=torch.int64).expand(4200, 4000)
    assert _count(winner, 2).tolist() == [4200 * 4000, 0]
    assert _count(torch.tensor([[0, 3, 3], [1, 3, 0]]), 5).tolist() == [2, 1, 0, 3, 0]


def test_graphs_are_dropped_when_memory_was_full_in_the_usual_way() -> None:
    device = pair()[1]
    image, words = noise_image(120, 160), embedded(30)
    device.segment(image, words)
    device.options = SegmenterOptions(postprocess="pamr")
    device.segment(image, words)
    assert device._frame is not None
    assert device.image_encoder.make_do(1)
    device.segment(image, words)
    assert device._frame is None


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
    words, image = embedded(30, negatives=3), noise_image(240, 320)
    device.segment(image, words)
    with NoWaiting():
        assert "launch" in device.segment(image, words).stages_ms


@pytest.mark.parametrize("options", [{"validation": "relabel"}, {"select": False}], ids=str)
def test_what_the_device_cannot_do_the_segmenter_does(options: dict[str, Any]) -> None:
    own, device = pair(**options)
    words, image = embedded(150), noise_image(120, 160)
    assert not serves(device.image_encoder, words, device.options)
    result = device.segment(image, words)
    assert "encode" in result.stages_ms
    assert_same(own.segment(image, words), result)


def test_models_that_decode_go_the_segmenters_way() -> None:
    own, device = pair(TinyDecoding())
    words, image = embedded(20), noise_image(120, 160)
    assert_same(own.segment(image, words), device.segment(image, words))


def test_on_a_cpu_the_segmenters_way_is_taken() -> None:
    device = pair()[1]
    device.on_cpu = False
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
    assert device.image_encoder.footprint.patches == 300
    assert len(device.image_encoder.notices) == 1
    second = device.segment(image, words)
    assert "launch" in second.stages_ms
    assert_same(first, second)


def test_a_model_file_of_a_torch_model_loads_a_segmenter_of_whole_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = pair()[0]
    file = tmp_path / "tiny.yaml"
    file.write_text("model: tiny\n", encoding="utf-8")
    monkeypatch.setattr("ovs_ros.segmenter.load_model", lambda file: (own.image_encoder, own.text_encoder))
    segmenter = ovs_ros.load(str(file), theta=0.25)
    assert isinstance(segmenter, TorchSegmenter) and segmenter.options.theta == 0.25


def test_the_benchmark_times_frames_of_both_ways_side_by_side() -> None:
    device = pair(max_categories=100)[1]
    words = {20: embedded(20), 150: embedded(150, negatives=30)}
    _, frame_ms, stages_ms, p95_ms = bench.measure(device, words, noise_image(120, 160), 20)
    assert set(stages_ms["20"]) == {"prepare", "launch", "wait"}
    assert "encode" in stages_ms["150"]
    bench.print_times(1.0, frame_ms, stages_ms, p95_ms, "cpu")
    assert bench.measure_batch(device.image_encoder, 2, 2) > 0
