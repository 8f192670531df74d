"""A torch model behind the numpy protocol: the same figures, unit norms, windows, and full memories."""

import logging
from collections.abc import Callable

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[clip]')")

from clip_models import open_clip_or_skip, small_clip  # noqa: E402
from torch.nn.functional import normalize  # noqa: E402
from torch_models import TinyDecoding, TinyDense, noise_image, one_thread  # noqa: E402, F401

from ovs_ros.encoders.clip.image_encoder import (  # noqa: E402
    FEWEST_PATCHES,
    EncodedBuffers,
    Footprint,
    TorchImageEncoder,
)
from ovs_ros.encoders.features import Features  # noqa: E402
from ovs_ros.encoders.heads import CosineHead  # noqa: E402
from ovs_ros.encoders.patches import PatchGrid, fit_grid  # noqa: E402


def encode(encoder: TorchImageEncoder, image: np.ndarray) -> Features:
    return encoder.encode(image)


def on_cpu(model: TinyDense, patches: int = 100, **settings: object) -> TorchImageEncoder:
    return TorchImageEncoder(model, patches=patches, **{"device": "cpu", "precision": "fp32", **settings})


def by_hand(model: TinyDense, image: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches and image of an image that fills its grid."""
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    normalised = (pixels - torch.tensor(model.mean)[:, None, None]) / torch.tensor(model.std)[:, None, None]
    with torch.inference_mode():
        features = model.dense(normalised)
    return features.patches[0], features.image[0]


def test_features_are_the_models_own_over_the_normalised_image() -> None:
    model, image = TinyDense(), noise_image(96, 128)
    features = encode(on_cpu(model, 48), image)
    patches, whole = by_hand(model, image)
    assert features.valid == (1.0, 1.0)
    np.testing.assert_allclose(features.patch_tokens, patches, atol=1e-5)
    np.testing.assert_allclose(features.class_token, whole, atol=1e-5)
    assert isinstance(features.head, CosineHead) and features.head.embeddings is features.patch_tokens


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("shape", [(90, 160), (33, 200), (1, 1), (480, 20)])
def test_any_shape_gives_unit_float32_embeddings_on_its_grid(precision: str, shape: tuple[int, int]) -> None:
    features = encode(on_cpu(TinyDense(), precision=precision), noise_image(*shape))
    grid = fit_grid(*shape, patches=100, patch=16)
    assert features.patch_tokens.shape == (grid.rows, grid.columns, 24) and features.valid == grid.valid
    for values in (features.patch_tokens, features.class_token):
        assert values.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(values, axis=-1), 1, atol=1e-5)


def test_bf16_stays_close_to_fp32_and_leaves_the_text_tower_alone() -> None:
    image, model = noise_image(96, 128), TinyDense()
    exact = encode(on_cpu(TinyDense()), image)
    words = TinyDense().embed_texts(["chair"])
    rough = encode(on_cpu(model, precision="bf16"), image)
    assert model.embed.weight.dtype == model.head.dtype == torch.bfloat16
    assert model.attention.in_proj_weight.dtype == torch.bfloat16
    assert model.norm.weight.dtype == model.words.weight.dtype == torch.float32
    assert (exact.patch_tokens * rough.patch_tokens).sum(-1).min() > 0.999
    assert torch.equal(model.embed_texts(["chair"]), words)


def test_frames_do_not_share_memory() -> None:
    encoder = on_cpu(TinyDense())
    first = encode(encoder, noise_image(96, 128))
    kept = first.patch_tokens.copy()
    encode(encoder, noise_image(96, 128, seed=1))
    np.testing.assert_array_equal(first.patch_tokens, kept)


def test_an_image_is_not_left_over_in_the_next_ones_padding() -> None:
    fresh = encode(on_cpu(TinyDense()), noise_image(90, 160, seed=1))
    encoder = on_cpu(TinyDense())
    encode(encoder, noise_image(90, 160))
    np.testing.assert_array_equal(
        encode(encoder, noise_image(90, 160, seed=1)).patch_tokens, fresh.patch_tokens
    )


def test_windows_are_averaged_as_a_slow_loop_does() -> None:
    model, image = TinyDense(), noise_image(96, 128)
    features = encode(on_cpu(model, 48, window=64, stride=32), image)
    total, wholes = torch.zeros(6, 8, 24), []
    for top in (0, 32):
        for left in (0, 32, 64):
            patches, whole = by_hand(model, image[top : top + 64, left : left + 64])
            total[top // 16 : top // 16 + 4, left // 16 : left // 16 + 4] += patches
            wholes.append(whole)
    np.testing.assert_allclose(features.patch_tokens, normalize(total, dim=2), atol=1e-5)
    np.testing.assert_allclose(features.class_token, normalize(torch.stack(wholes).mean(0), dim=0), atol=1e-5)
    assert model.batches[0] == (6, 3, 64, 64)


def test_a_window_as_large_as_the_image_is_one_pass() -> None:
    image = noise_image(96, 128)
    one = encode(on_cpu(TinyDense(), 48), image)
    windowed = encode(on_cpu(TinyDense(), 48, window=128), image)
    np.testing.assert_array_equal(one.patch_tokens, windowed.patch_tokens)


@pytest.mark.parametrize("settings", [{"patches": 0}, {"window": -1}, {"window": 32, "stride": 48}])
def test_settings_out_of_range_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected"):
        TorchImageEncoder(TinyDense(), **{"patches": 48, "device": "cpu", **settings})


def test_full_memory_first_splits_the_windows_then_halves_the_patches(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = TinyDense(most_pixels=128 * 160)
    encoder = on_cpu(model, 600, window=160, stride=160)
    with caplog.at_level(logging.WARNING):
        features = encode(encoder, noise_image(480, 640))
        again = encode(encoder, noise_image(480, 640))
    assert encoder.fallbacks == [
        "runs windows one by one, because the memory of cpu was full",
        "cuts images into 300 patches in place of 600, because the memory of cpu was full",
        "cuts images into 150 patches in place of 300, because the memory of cpu was full",
        "cuts images into 75 patches in place of 150, because the memory of cpu was full",
    ]
    assert [record.message for record in caplog.records] == [f"tiny {text}" for text in encoder.fallbacks]
    assert encoder.name == "tiny@75w160-float32"
    assert features.patch_tokens.shape == again.patch_tokens.shape == (7, 10, 24)
    np.testing.assert_array_equal(features.patch_tokens, again.patch_tokens)


def test_a_resized_encoder_is_as_one_of_that_size_and_never_takes_back_what_memory_cost() -> None:
    image = noise_image(480, 640)
    encoder = on_cpu(TinyDense(), 256)
    encode(encoder, image)
    encoder.resize(128)
    smaller = encode(on_cpu(TinyDense(), 128), image)
    np.testing.assert_array_equal(encode(encoder, image).patch_tokens, smaller.patch_tokens)
    encoder.resize(256)
    assert encoder.fall_back(1)
    encoder.resize(256)
    assert encoder.patches == 128


def test_buffers_that_find_no_memory_are_made_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, static_call = on_cpu(TinyDense(), 256), TorchImageEncoder.static_call

    def full(encoder: TorchImageEncoder, function: Callable[[], object]) -> object:
        if encoder.footprint.patches > 100:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return static_call(encoder, function)

    monkeypatch.setattr(TorchImageEncoder, "static_call", full)
    assert encode(encoder, noise_image(480, 640)).patch_tokens.shape == (7, 9, 24)
    assert len(encoder.fallbacks) == 2


def test_what_no_footprint_can_hold_is_an_error() -> None:
    encoder = on_cpu(TinyDense(most_pixels=100), 256)
    with pytest.raises(RuntimeError, match="out of memory"):
        encode(encoder, noise_image(480, 640))
    assert len(encoder.fallbacks) == 2


def test_errors_that_are_not_about_memory_pass_through(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = on_cpu(TinyDense(), 256)

    def fail(images: torch.Tensor) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(encoder.model, "dense", fail)
    with pytest.raises(RuntimeError, match="mat1"):
        encode(encoder, noise_image(48, 64))
    assert encoder.fallbacks == []


def test_the_last_resort_of_a_gpu_is_the_cpu_at_full_resolution() -> None:
    gpu = torch.device("cuda", 0)
    steps, footprint = [], Footprint(gpu, 1000)
    while (footprint := footprint.smaller(6, 1000, images=4)) is not None:
        steps.append((footprint.device.type, footprint.patches, footprint.batches, footprint.together))
    assert steps[:3] == [
        ("cuda", 1000, False, True),
        ("cuda", 1000, False, False),
        ("cuda", 500, False, False),
    ]
    assert [step[1] for step in steps if step[0] == "cuda"][-1] < 2 * FEWEST_PATCHES
    first_on_cpu = [step for step in steps if step[0] == "cpu"][0]
    assert first_on_cpu == ("cpu", 1000, True, True)


def test_a_model_that_decodes_gives_its_own_logits() -> None:
    model, image = TinyDecoding(), noise_image(96, 128)
    features = encode(on_cpu(model, 48), image)
    words = model.embed_texts(["a", "b", "c"]).numpy()
    assert features.grid == (12, 16)
    logits = features.logits(words)
    patches, _ = by_hand(model, image)
    expected = torch.nn.functional.interpolate(
        torch.einsum("hwd,md->mhw", patches, torch.from_numpy(words))[None], scale_factor=2, mode="bilinear"
    )[0].permute(1, 2, 0)
    assert logits.shape == (12, 16, 3) and logits.dtype == np.float32 and logits.flags.c_contiguous
    scaled = model.logit_scale * expected.numpy()
    np.testing.assert_allclose(logits - (logits - scaled).mean(), scaled, atol=1e-4)
    added = np.full((6, 8, 3), 0.25, np.float32)
    np.testing.assert_allclose(features.logits(words, added), logits + 0.25, atol=1e-5)


def test_prompts_reach_the_decoder_apart() -> None:
    model = TinyDecoding()
    head = encode(on_cpu(model, 48), noise_image(96, 128)).head
    words = model.embed_texts(["a", "b", "c", "d"]).numpy()
    apart = head.logits(words.reshape(2, 2, -1))
    each = head.logits(words)
    np.testing.assert_allclose(apart, (each[..., ::2] + each[..., 1::2]) / 2, atol=1e-5 * model.logit_scale)


def test_windows_are_decoded_each_and_averaged() -> None:
    model = TinyDecoding()
    image = noise_image(64, 128)
    words = model.embed_texts(["a", "b"]).numpy()
    both = encode(on_cpu(model, 32, window=64, stride=64), image).logits(words)
    for left in (0, 64):
        one = encode(on_cpu(model, 16), np.ascontiguousarray(image[:, left : left + 64]))
        np.testing.assert_allclose(both[:, left // 8 : left // 8 + 8], one.logits(words), atol=1e-5)


def test_a_decoder_without_memory_leaves_the_frame_to_the_patches() -> None:
    model = TinyDecoding()
    encoder = on_cpu(model, 192)
    features = encode(encoder, noise_image(96, 128))
    words = model.embed_texts(["a", "b"]).numpy()

    def full(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    model.decode = full
    logits = features.logits(words)
    plain = CosineHead(features.patch_tokens, model.logit_scale).logits(words)
    assert logits.shape == (24, 32, 2)
    np.testing.assert_allclose(
        logits[::2, ::2].mean((0, 1)), plain.mean((0, 1)), atol=0.02 * model.logit_scale
    )
    assert encoder.footprint.patches == 96 and len(encoder.fallbacks) == 1


def test_a_second_encoder_cannot_change_what_a_decoder_reads() -> None:
    head = encode(on_cpu(TinyDecoding()), noise_image(48, 64)).head
    with pytest.raises(ValueError, match="decoder of its own beside a second encoder, got tiny"):
        head.changed(lambda values, valid: values, (1.0, 1.0))


def test_patches_of_a_plain_model_can_be_changed() -> None:
    features = encode(on_cpu(TinyDense()), noise_image(48, 64))
    change: Callable[..., np.ndarray] = lambda values, valid: -values  # noqa: E731
    words = TinyDense().embed_texts(["a"]).numpy()
    changed = features.head.changed(change, features.valid)
    np.testing.assert_allclose(changed.logits(words), -features.logits(words))


def test_a_model_is_timed_alone_and_over_several_images() -> None:
    model = TinyDense()
    encoder = on_cpu(model, 48)
    image = noise_image(96, 128)
    assert encoder.encode(image).stages_ms["encode"] > 0
    assert len(encoder.time_batch(image, batch=3, runs=2)) == 2
    assert model.batches == [(1, 3, 96, 128), *[(3, 3, 96, 128)] * 3]


def features_of(encoder: TorchImageEncoder, images: list[np.ndarray]) -> list[Features]:
    """Features of images that are encoded together, in the order of the images."""
    found = dict(encoder.encode_batch(images))
    return [found[index] for index in range(len(images))]


@pytest.mark.parametrize("windows", [{}, {"window": 64, "stride": 32}], ids=str)
def test_images_together_give_what_each_gives_alone(windows: dict[str, int]) -> None:
    # Five of one grid, of two sizes and with padding, and one of another grid in between.
    shapes = [(90, 160), (180, 320), (128, 96), (90, 160), (90, 160), (180, 320)]
    images = [noise_image(*shape, seed) for seed, shape in enumerate(shapes)]
    model = TinyDense()
    together = features_of(on_cpu(model, batches_on_cpu=True, **windows), images)
    count = len(model.batches)
    assert count == 3  # four of the five, the fifth, and the other one
    alone = on_cpu(TinyDense(), **windows)
    for image, got in zip(images, together, strict=True):
        expected = encode(alone, image)
        np.testing.assert_allclose(got.patch_tokens, expected.patch_tokens, atol=1e-5)
        np.testing.assert_allclose(got.class_token, expected.class_token, atol=1e-5)
        assert got.valid == expected.valid and set(got.stages_ms) == {"prepare", "encode"}


@pytest.mark.parametrize("windows", [{}, {"window": 64, "stride": 64}], ids=str)
def test_images_together_are_decoded_each_by_its_own_features(windows: dict[str, int]) -> None:
    images = [noise_image(96, 128, seed) for seed in range(3)]
    model = TinyDecoding()
    words = model.embed_texts(["a", "b", "c"]).numpy()
    alone = on_cpu(TinyDecoding(), 48, **windows)
    for index, features in on_cpu(model, 48, batches_on_cpu=True, **windows).encode_batch(images):
        expected = encode(alone, images[index]).logits(words)
        np.testing.assert_allclose(features.logits(words), expected, atol=1e-4)


def test_features_may_be_overwritten_once_the_next_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a CUDA graph does, whose results are the same buffers each time."""

    class Overwriting:
        def __init__(self, function: Callable[[], EncodedBuffers]) -> None:
            self._function, self._kept = function, None

        def __call__(self) -> EncodedBuffers:
            result = self._function()
            if self._kept is None:
                self._kept = result
            kept, new = (
                (one.embeddings, one.windows.patches, *one.windows.decoding) for one in (self._kept, result)
            )
            with torch.inference_mode():
                for old, values in zip(kept, new, strict=True):
                    old.copy_(values)
            return self._kept

    images = [noise_image(96, 128, seed) for seed in range(17)]  # twice 8, and 1
    alone, encoder = on_cpu(TinyDecoding(), 48), on_cpu(TinyDecoding(), 48, batches_on_cpu=True)
    monkeypatch.setattr(encoder, "static_call", Overwriting)
    monkeypatch.setattr(encoder, "fetch", lambda values: values.clone().numpy())
    words = encoder.model.embed_texts(["a", "b", "c"]).numpy()
    for index, features in encoder.encode_batch(images):
        expected = encode(alone, images[index])
        np.testing.assert_allclose(features.patch_tokens, expected.patch_tokens, atol=1e-5)
        np.testing.assert_allclose(features.logits(words), expected.logits(words), atol=1e-4)


def test_a_clip_gives_the_same_together() -> None:
    open_clip_or_skip()
    from ovs_ros.encoders.clip.vit import OpenClipViT

    settings = {"patches": 12, "device": "cpu", "precision": "fp32"}
    images = [noise_image(60, 80, seed) for seed in range(4)]
    together = TorchImageEncoder(OpenClipViT(small_clip()[0], name="a"), batches_on_cpu=True, **settings)
    alone = TorchImageEncoder(OpenClipViT(small_clip()[0], name="a"), **settings)
    for image, got in zip(images, features_of(together, images), strict=True):
        expected = encode(alone, image)
        np.testing.assert_allclose(got.patch_tokens, expected.patch_tokens, atol=1e-5)
        np.testing.assert_allclose(got.class_token, expected.class_token, atol=1e-5)


def test_on_a_cpu_images_are_encoded_one_by_one() -> None:
    model = TinyDense()
    encoder = on_cpu(model)
    features_of(encoder, [noise_image(96, 128, seed) for seed in range(3)])
    assert encoder.most_at_once == 1 and [batch[0] for batch in model.batches] == [1, 1, 1]


def test_images_that_do_not_fit_together_are_encoded_one_by_one_from_then_on() -> None:
    images = [noise_image(96, 128, seed) for seed in range(4)]
    model = TinyDense(most_pixels=3 * 96 * 128)
    encoder = on_cpu(model, 48, batches_on_cpu=True)
    got = features_of(encoder, images)
    assert [batch[0] for batch in model.batches] == [4, 1, 1, 1, 1]
    assert encoder.fallbacks == ["runs images one by one, because the memory of cpu was full"]
    assert encoder.most_at_once == 1 and encoder.footprint.patches == 48
    alone = on_cpu(TinyDense(), 48)
    for image, features in zip(images, got, strict=True):
        np.testing.assert_allclose(features.patch_tokens, encode(alone, image).patch_tokens, atol=1e-5)


def test_buffers_for_several_images_that_find_no_memory_are_made_for_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder, make = on_cpu(TinyDense(), 48, batches_on_cpu=True), TorchImageEncoder._make_buffers

    def full(encoder: TorchImageEncoder, grid: PatchGrid, images: int) -> object:
        if images > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return make(encoder, grid, images)

    monkeypatch.setattr(TorchImageEncoder, "_make_buffers", full)
    assert len(features_of(encoder, [noise_image(96, 128, seed) for seed in range(3)])) == 3
    assert len(encoder.fallbacks) == 1 and encoder.footprint.patches == 48
