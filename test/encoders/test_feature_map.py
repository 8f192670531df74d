"""Any ONNX image encoder as a map: layouts, sizes, padding, and files that cannot be used."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from onnx_encoders import FLOAT, UINT8, add_output, keep_output, save_encoder

from ovs_ros.encoders.feature_map import IMAGENET_MEAN, IMAGENET_STD, FeatureMapEncoder, MapInput

IMAGE = np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8)


def encode(path: Path, image: np.ndarray, wanted: MapInput | None = None) -> tuple[np.ndarray, tuple]:
    encoder = FeatureMapEncoder(path, wanted)
    got = encoder.encode(image)
    assert got.values.dtype == np.float32 and encoder.channels == got.values.shape[2]
    return got.values, got.valid


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("kind", [FLOAT, UINT8])
@pytest.mark.parametrize("layout", ["nchw", "nhwc", "tokens"])
def test_every_layout_gives_the_same_map(tmp_path: Path, first: bool, kind: int, layout: str) -> None:
    path = tmp_path / "e.onnx"
    kernel = save_encoder(path, size=(48, 64), first=first, kind=kind, layout=layout, prefix=5)
    values, valid = encode(path, IMAGE)
    pixels = IMAGE.astype(np.float32)
    if kind == FLOAT:
        pixels = (pixels - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)
    blocks = pixels.reshape(3, 16, 4, 16, 3)
    expected = np.einsum("rycxk,dkyx->rcd", blocks, kernel)
    assert valid == (1.0, 1.0)
    np.testing.assert_allclose(values, expected, rtol=1e-3, atol=np.abs(expected).max() * 1e-4)


def test_an_encoder_of_sams_layout_fits(tmp_path: Path) -> None:
    path = tmp_path / "sam.onnx"
    save_encoder(path, size=(1024, 1024), channels=256)
    values, valid = encode(path, IMAGE)
    assert values.shape == (64, 64, 256)
    assert valid == (0.75, 1.0)
    np.testing.assert_allclose(values[48:], 0, atol=0.05)  # Padding is the mean, and so about zero.


def test_an_image_is_scaled_without_distortion_and_padding_does_not_keep_the_last_one(tmp_path: Path) -> None:
    path = tmp_path / "e.onnx"
    save_encoder(path, size=(64, 64), kind=UINT8)
    encoder = FeatureMapEncoder(path)
    for image in (IMAGE, IMAGE.transpose(1, 0, 2).copy(), IMAGE):
        height, width = image.shape[:2]
        got, fresh = encoder.encode(image), FeatureMapEncoder(path).encode(image)
        assert got.valid == (height / 64, width / 64)
        np.testing.assert_array_equal(got.values, fresh.values)
        # What the image covers is what the image alone gives: it was not scaled.
        alone, _ = encode(path, np.pad(image, ((0, 64 - height), (0, 64 - width), (0, 0))))
        rows, columns = height * got.values.shape[0] // 64, width * got.values.shape[1] // 64
        np.testing.assert_allclose(got.values[:rows, :columns], alone[:rows, :columns], rtol=1e-5)


def test_a_size_left_open_is_to_be_given(tmp_path: Path) -> None:
    path = tmp_path / "e.onnx"
    save_encoder(path, size=("height", "width"))
    with pytest.raises(ValueError, match=r"expected a size \(H, W\)"):
        FeatureMapEncoder(path)
    values, _ = encode(path, IMAGE, MapInput(size=(96, 128)))
    assert values.shape == (6, 8, 8)
    larger = cv2.resize(IMAGE, (128, 96), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(values, encode(path, larger, MapInput(size=(96, 128)))[0], atol=1e-5)


def test_one_of_several_outputs_is_to_be_named(tmp_path: Path) -> None:
    path = tmp_path / "e.onnx"
    save_encoder(path)
    add_output(path, "pooled")
    with pytest.raises(ValueError, match="expected the name of the map among the outputs map, pooled .*none"):
        FeatureMapEncoder(path)
    with pytest.raises(ValueError, match="got maps"):
        FeatureMapEncoder(path, MapInput(output="maps"))
    assert FeatureMapEncoder(path, MapInput(output="map")).channels == 8


def test_what_is_no_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected the second encoder's ONNX file"):
        FeatureMapEncoder(tmp_path / "nothing.onnx")
    path = tmp_path / "e.onnx"
    path.write_text("no network")
    with pytest.raises(ValueError, match="expected an ONNX model that runs in"):
        FeatureMapEncoder(path)
    save_encoder(path)
    with pytest.raises(ValueError, match="expected the size 64x64 that .* fixes, got 32x64"):
        FeatureMapEncoder(path, MapInput(size=(32, 64)))
    keep_output(path, "pooled")
    save_encoder(tmp_path / "wide.onnx", size=(64, 128))
    keep_output(tmp_path / "wide.onnx", "pooled")
    with pytest.raises(ValueError, match=r"expected a map .* got \(1, 8, 1, 1\); name another output"):
        FeatureMapEncoder(tmp_path / "wide.onnx")


def test_a_size_that_the_network_does_not_take_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "e.onnx"
    save_encoder(path, size=("height", "width"))
    with pytest.raises(ValueError, match="expected .* to take an input of 8x8, got: .*; give another size"):
        FeatureMapEncoder(path, MapInput(size=(8, 8)))


@pytest.mark.parametrize(
    "wrong",
    [{"size": (0, 5)}, {"mean": (0.0, 256.0, 0.0)}, {"std": (1.0, 0.0, 1.0)}, {"std": (1, 1, np.nan)}],
)
def test_numbers_that_cannot_be_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="expected a (size|mean)"):
        MapInput(**wrong)


def test_another_input_is_refused(tmp_path: Path) -> None:
    models = Path(__file__).parents[2] / "ovs_ros" / "models"
    with pytest.raises(ValueError, match="expected one input .* got ids: tensor.int64.*; export the encoder"):
        FeatureMapEncoder(models / "text_encoder.onnx")
    save_encoder(tmp_path / "e.onnx", size=(64, 64))
    with pytest.raises(ValueError, match="expected one input .* got pixels"):
        FeatureMapEncoder(models / "image_encoder.onnx")
