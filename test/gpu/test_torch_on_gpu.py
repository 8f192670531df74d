"""What only a GPU can show: graphs give what eager calls give, fp16 agrees with fp32, frames do not wait."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[clip]')")

from torch_models import TinyDecoding, TinyDense, noise_image  # noqa: E402

from ovs_ros.encoders.clip.image_encoder import TorchImageEncoder  # noqa: E402
from ovs_ros.encoders.clip.text_encoder import ClipTextEncoder  # noqa: E402
from ovs_ros.encoders.features import Features  # noqa: E402
from ovs_ros.model import Model  # noqa: E402
from ovs_ros.segmenter import Segmenter, SegmenterOptions  # noqa: E402
from ovs_ros.steps.torch_frame import TorchFrame  # noqa: E402
from ovs_ros.vocabulary.vocabulary import Vocabulary  # noqa: E402
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings  # noqa: E402

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU on this machine")


def on_gpu(model: TinyDense, patches: int = 300, **settings: Any) -> TorchImageEncoder:
    return TorchImageEncoder(model, patches=patches, **{"device": "cuda", "precision": "fp16", **settings})


def encode(encoder: TorchImageEncoder, image: np.ndarray) -> Features:
    return encoder.encode(image)


def random_words(count: int) -> WordEmbeddings:
    embeddings = np.random.default_rng(0).standard_normal((count, TinyDense.dim))
    names = [f"thing {number}" for number in range(count)]
    return WordEmbeddings(
        Vocabulary.from_names(names), embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    )


@pytest.mark.parametrize("window", [0, 128])
def test_a_graph_gives_what_an_eager_call_gives(window: int) -> None:
    eager_model = TinyDense()
    eager_model.capturable = False
    eager, graph = on_gpu(eager_model, window=window), on_gpu(TinyDense(), window=window)
    for seed in range(4):
        image = noise_image(240, 320, seed)
        expected, got = encode(eager, image), encode(graph, image)
        np.testing.assert_allclose(got.patch_tokens, expected.patch_tokens, atol=1e-3)
        np.testing.assert_allclose(got.class_token, expected.class_token, atol=1e-3)
    assert graph.fallbacks == eager.fallbacks == []


def test_a_captured_model_is_not_called_again() -> None:
    model = TinyDense()
    encoder = on_gpu(model)
    encode(encoder, noise_image(240, 320))
    calls = len(model.batches)
    encode(encoder, noise_image(240, 320, seed=1))
    assert len(model.batches) == calls
    encode(encoder, noise_image(120, 320))
    assert len(model.batches) > calls


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_lower_precision_agrees_with_fp32_on_the_best_word(precision: str) -> None:
    words = random_words(20).embeddings
    exact, rough = on_gpu(TinyDense(), precision="fp32"), on_gpu(TinyDense(), precision=precision)
    agreement = []
    for seed in range(4):
        best = [
            (encode(encoder, noise_image(480, 640, seed)).patch_tokens @ words.T).argmax(2)
            for encoder in (exact, rough)
        ]
        agreement.append((best[0] == best[1]).mean())
    assert np.mean(agreement) >= (0.99 if precision == "fp16" else 0.95)


def test_fp32_on_the_gpu_gives_what_the_cpu_gives() -> None:
    image = noise_image(240, 320)
    cpu = encode(on_gpu(TinyDense(), device="cpu", precision="fp32"), image)
    gpu = encode(on_gpu(TinyDense(), precision="fp32"), image)
    assert (cpu.patch_tokens * gpu.patch_tokens).sum(-1).min() > 0.9999


@pytest.mark.parametrize("options", [{}, {"select": False}, {"rule": "top_n", "top_n": 3}], ids=str)
def test_the_whole_frame_is_the_segmenters(options: dict[str, Any]) -> None:
    encoder = on_gpu(TinyDense(), precision="fp32")
    text = ClipTextEncoder(encoder.model, ("{}",))
    own = Segmenter(Model(encoder, text), SegmenterOptions(**options))
    whole = replace(own, frame_path=TorchFrame(encoder))
    for count in (20, 90, 30):
        words, image = random_words(count), noise_image(480, 640, count)
        expected, got = own.segment(image, words), whole.segment(image, words)
        assert set(got.stages_ms) == {"prepare", "launch", "wait"}
        assert got.selected_names == expected.selected_names
        assert (got.labels == expected.labels).mean() >= 0.999
    assert encoder.fallbacks == []


def test_a_frame_waits_for_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = on_gpu(TinyDense())
    model = Model(encoder, ClipTextEncoder(encoder.model, ("{}",)))
    segmenter = Segmenter(model, frame_path=TorchFrame(encoder))
    words, image = random_words(20), noise_image(480, 640)
    for _ in range(2):
        segmenter.segment(image, words)
    shape = encoder.buffers(*image.shape[:2])
    shape.encode()
    waits, wait = [], encoder.wait

    def counted() -> None:
        torch.cuda.set_sync_debug_mode("default")
        wait()
        waits.append(1)
        torch.cuda.set_sync_debug_mode("error")

    monkeypatch.setattr(encoder, "wait", counted)
    torch.cuda.set_sync_debug_mode("error")
    try:
        encoder.upload(shape)
        shape.encode()
        assert not waits
        segmenter.segment(image, words)
        assert len(waits) == 1
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("window", [0, 128])
def test_images_together_give_what_each_gives_alone_and_every_size_of_batch_is_captured_once(
    window: int,
) -> None:
    model = TinyDense()
    together, alone = on_gpu(model, window=window), on_gpu(TinyDense(), window=window)
    for start in (0, 7):  # batches of 4, 2 and 1
        images = [noise_image(240, 320, start + seed) for seed in range(7)]
        calls = len(model.batches)
        for index, features in together.encode_batch(images):
            expected = encode(alone, images[index])
            np.testing.assert_allclose(features.patch_tokens, expected.patch_tokens, atol=5e-3)
            np.testing.assert_allclose(features.class_token, expected.class_token, atol=5e-3)
    assert len(model.batches) == calls
    assert together.fallbacks == alone.fallbacks == []


def test_whole_frames_together_are_what_each_is_alone() -> None:
    encoder = on_gpu(TinyDense(), precision="fp32")
    text = ClipTextEncoder(encoder.model, ("{}",))
    own = Segmenter(Model(encoder, text))
    whole = replace(own, frame_path=TorchFrame(encoder))
    shapes = [(480, 640), (481, 641), (480, 640), (480, 640), (481, 641)]
    for count in (20, 300):
        words, images = random_words(count), [noise_image(*shape, seed) for seed, shape in enumerate(shapes)]
        for image, got in zip(images, whole.segment_batch(images, words), strict=True):
            expected = own.segment(image, words)
            assert set(got.stages_ms) == {"prepare", "launch", "wait"}
            assert got.selected_names == expected.selected_names
            assert (got.labels == expected.labels).mean() >= 0.999
    assert encoder.fallbacks == []


def test_images_that_do_not_fit_together_run_one_by_one() -> None:
    class Full(TinyDense):
        def dense(self, images: Any) -> Any:
            if images.is_cuda and len(images) > 1:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
            return super().dense(images)

    encoder = on_gpu(Full())
    images = [noise_image(480, 640, seed) for seed in range(4)]
    assert sorted(index for index, _ in encoder.encode_batch(images)) == [0, 1, 2, 3]
    assert encoder.device == "cuda:0" and encoder.footprint.patches == 300
    assert encoder.fallbacks == ["runs images one by one, because the memory of cuda:0 was full"]


def test_a_model_that_cannot_be_captured_runs_as_it_is_and_says_so() -> None:
    class Waits(TinyDense):
        def dense(self, images: Any) -> Any:
            features = super().dense(images)
            assert features.patches.abs().sum().item() > 0
            return features

    encoder, plain = on_gpu(Waits()), on_gpu(TinyDense())
    for seed in range(2):
        image = noise_image(240, 320, seed)
        np.testing.assert_allclose(
            encode(encoder, image).patch_tokens, encode(plain, image).patch_tokens, atol=1e-3
        )
    assert len(encoder.fallbacks) == 1 and "could not be captured" in encoder.fallbacks[0]


def test_a_decoder_on_the_gpu_gives_what_it_gives_on_the_cpu() -> None:
    image, words = noise_image(240, 320), random_words(8).embeddings
    cpu, gpu = (
        encode(on_gpu(TinyDecoding(), device=device, precision="fp32"), image).logits(words)
        for device in ("cpu", "cuda")
    )
    np.testing.assert_allclose(gpu, cpu, atol=1e-3)


def test_a_full_gpu_ends_on_the_cpu() -> None:
    class Full(TinyDense):
        def dense(self, images: Any) -> Any:
            if images.is_cuda and images.shape[2] > 8 * self.stride:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
            return super().dense(images)

    encoder = on_gpu(Full())
    features = encode(encoder, noise_image(480, 640))
    assert encoder.device == "cpu" and encoder.footprint.patches == 300
    assert encoder.fallbacks[-1] == "runs on cpu with 300 patches, because the memory of cuda:0 was full"
    expected = encode(on_gpu(TinyDense(), device="cpu"), noise_image(480, 640))
    assert (features.patch_tokens * expected.patch_tokens).sum(-1).min() > 0.999
