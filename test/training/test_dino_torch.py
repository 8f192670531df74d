"""The frozen encoder and head in torch say what the shipped files say."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")

from ovs_ros.encoders.dino import DinoEncoder  # noqa: E402
from ovs_ros.encoders.embedded import GUIDE, MODELS  # noqa: E402
from ovs_ros.training.dino_torch import DinoV2, read_encoder, write_encoder  # noqa: E402
from ovs_ros.training.export_head import read_head  # noqa: E402

GRID = (5, 7)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """Something with edges and shades."""
    y, x = np.mgrid[: GRID[0] * 14, : GRID[1] * 14].astype(np.float32)
    planes = [127 + 120 * np.sin(x / 9 + k) * np.cos(y / (7 + k)) for k in range(3)]
    return cv2.GaussianBlur(np.stack(planes, axis=2), (3, 3), 0).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def encoder() -> DinoV2:
    return read_encoder(MODELS)


@pytest.fixture(scope="module")
def tokens(encoder: DinoV2, image: np.ndarray) -> np.ndarray:
    """By torch, (1 + N, 1536)."""
    with torch.no_grad():
        return encoder(torch.from_numpy(image).permute(2, 0, 1)[None].float())[0].numpy()


def run(path: Path, encoder: DinoV2, image: np.ndarray) -> np.ndarray:
    """Tokens (1 + N, 1536) by ONNX Runtime."""
    return DinoEncoder(path, encoder.positions).tokens(image)


def test_tokens_are_those_of_the_graph_in_float32(
    encoder: DinoV2, tokens: np.ndarray, image: np.ndarray, tmp_path: Path
) -> None:
    write_encoder(encoder, tmp_path / "encoder.onnx", int8=False)
    got = run(tmp_path / "encoder.onnx", encoder, image)
    np.testing.assert_allclose(got, tokens, atol=2e-3)


def test_tokens_are_those_of_the_shipped_encoder(
    encoder: DinoV2, tokens: np.ndarray, image: np.ndarray
) -> None:
    want = run(MODELS / "image_encoder.onnx", encoder, image)
    near = (tokens * want).sum(1) / np.linalg.norm(tokens, axis=1) / np.linalg.norm(want, axis=1)
    assert near.mean() > 0.99


def test_the_encoder_has_nothing_to_train(encoder: DinoV2) -> None:
    assert not any(p.requires_grad for p in encoder.parameters())


def test_the_head_comes_back_from_the_files_that_run() -> None:
    head = read_head(MODELS)
    h, w = 4, 5
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((1 + h * w, 1536)).astype(np.float32)
    guide = rng.integers(0, 256, (GUIDE * h, GUIDE * w, 3), np.uint8)
    session = ort.InferenceSession(MODELS / "image_head.onnx", providers=["CPUExecutionProvider"])
    image, patches, upsampling, _, _ = session.run(None, {"tokens": tokens, "guide": guide})
    with torch.no_grad():
        hidden, got = head.patches(torch.from_numpy(tokens[1:]).view(1, h, w, -1))
        weights, _ = head.upsampling(hidden, torch.from_numpy(guide).permute(2, 0, 1)[None] / 255.0)
        whole = head.whole(torch.from_numpy(tokens[:1]))
    assert (got.view(-1, got.shape[-1]).numpy() * patches).sum(1).min() > 0.99
    assert (whole.numpy() * image).sum() > 0.99
    by_patch = weights.view(9, h, 4, w, 4).permute(1, 3, 2, 4, 0).reshape(h * w, 16, 9).numpy()
    assert np.abs(by_patch - upsampling).mean() < 0.02


def test_graphs_of_another_kind_are_refused(tmp_path: Path) -> None:
    for file in ("text_head.npz", "position_table.npy"):
        shutil.copy(MODELS / file, tmp_path)
    shutil.copy(MODELS / "image_encoder.onnx", tmp_path / "image_head.onnx")
    shutil.copy(MODELS / "image_head.onnx", tmp_path / "image_encoder.onnx")
    with pytest.raises(ValueError, match="expected a head that 'ovs train' wrote"):
        read_head(tmp_path)
    with pytest.raises(ValueError, match="expected an encoder that 'ovs train' wrote"):
        read_encoder(tmp_path)
