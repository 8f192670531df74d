"""The frozen encoder and head in torch say what the shipped files say."""

import cv2
import numpy as np
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")

from ovs_ros.encoders.embedded import GUIDE, MODELS  # noqa: E402
from ovs_ros.geometry.resample import resample_grid  # noqa: E402
from ovs_ros.training.build_image_encoder import DinoWeights, build  # noqa: E402
from ovs_ros.training.dino_torch import DinoTokens, DinoV2  # noqa: E402
from ovs_ros.training.read_encoder import read_encoder  # noqa: E402
from ovs_ros.training.read_head import read_head  # noqa: E402

GRID = (5, 7)


@pytest.fixture(scope="module")
def weights() -> DinoWeights:
    return read_encoder(MODELS)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """Something with edges and shades."""
    y, x = np.mgrid[: GRID[0] * 14, : GRID[1] * 14].astype(np.float32)
    planes = [127 + 120 * np.sin(x / 9 + k) * np.cos(y / (7 + k)) for k in range(3)]
    return cv2.GaussianBlur(np.stack(planes, axis=2), (3, 3), 0).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def encoder(weights: DinoWeights) -> DinoV2:
    return DinoV2(weights)


@pytest.fixture(scope="module")
def tokens(encoder: DinoV2, image: np.ndarray) -> DinoTokens:
    with torch.no_grad():
        return encoder(torch.from_numpy(image).permute(2, 0, 1)[None].float())


def run(model: bytes, weights: DinoWeights, image: np.ndarray) -> np.ndarray:
    """Tokens (1 + N, 1536) by ONNX Runtime."""
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    positions = resample_grid(weights.positions, *GRID).reshape(-1, 384)
    return session.run(None, {"image": image, "positions": positions})[0]


def joined(tokens: DinoTokens) -> np.ndarray:
    """As the ONNX encoder gives them, (1 + N, 1536)."""
    cls = torch.cat(tokens.cls, dim=-1)
    return torch.cat([cls, torch.cat(tokens.patches, dim=-1)[0].flatten(0, 1)]).numpy()


def test_tokens_are_those_of_the_graph_in_float32(
    tokens: DinoTokens, weights: DinoWeights, image: np.ndarray
) -> None:
    want = run(build(weights, int8=False).SerializeToString(), weights, image)
    np.testing.assert_allclose(joined(tokens), want, atol=2e-3)


def test_tokens_are_those_of_the_shipped_encoder(
    tokens: DinoTokens, weights: DinoWeights, image: np.ndarray
) -> None:
    want = run((MODELS / "image_encoder.onnx").read_bytes(), weights, image)
    got = joined(tokens)
    near = (got * want).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(want, axis=1)
    assert near.mean() > 0.99


def test_class_attention_is_a_share_and_goes_somewhere(tokens: DinoTokens) -> None:
    assert tokens.attention.shape == (1, *GRID, 6)
    torch.testing.assert_close(tokens.attention.sum((1, 2)), torch.ones(1, 6))
    assert tokens.attention.max() > 2 / (GRID[0] * GRID[1])


def test_class_attention_is_what_moves_the_class_token(encoder: DinoV2) -> None:
    """Its own definition: what softmax over all tokens gives to the patches, brought to sum 1."""
    torch.manual_seed(0)
    block = encoder.blocks[-1]
    x = torch.randn(2, 1 + 6, 384)
    query, key, _ = block.qkv(block.norm1(x)).view(2, 7, 3, 6, 64).permute(2, 0, 3, 1, 4)
    full = (query @ key.transpose(2, 3) / 8).softmax(-1)[:, :, 0, 1:]
    torch.testing.assert_close(block.class_attention(x), full / full.sum(-1, keepdim=True))


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


def test_a_graph_of_another_kind_is_refused(tmp_path) -> None:
    (tmp_path / "image_head.onnx").write_bytes((MODELS / "image_encoder.onnx").read_bytes())
    with pytest.raises(ValueError, match="expected .* nodes DynamicQuantizeMatMul"):
        read_head(tmp_path)
