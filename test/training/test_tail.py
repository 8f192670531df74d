"""The encoder cut in two for tuning, and put together again."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")

from ovs_ros.encoders.dino import DinoEncoder  # noqa: E402
from ovs_ros.encoders.embedded import MODELS  # noqa: E402
from ovs_ros.training.dino_torch import DinoV2, Tail, read_encoder, with_tail, write_encoder  # noqa: E402
from ovs_ros.training.recipes.tune import Front  # noqa: E402

GRID = (3, 4)


@pytest.fixture(scope="module")
def encoder() -> DinoV2:
    return read_encoder(MODELS)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (6, 8, 3), np.uint8)
    return np.ascontiguousarray(coarse.repeat(7, axis=0).repeat(7, axis=1))


def tokens_of(encoder: DinoV2, image: np.ndarray, folder: Path) -> np.ndarray:
    write_encoder(encoder, folder / "encoder.onnx")
    return DinoEncoder(folder / "encoder.onnx", encoder.positions).tokens(image)


def test_shipped_weights_come_back_from_the_file(encoder: DinoV2, image: np.ndarray, tmp_path: Path) -> None:
    want = DinoEncoder(MODELS / "image_encoder.onnx", encoder.positions).tokens(image)
    got = tokens_of(encoder, image, tmp_path)
    np.testing.assert_allclose(got, want, atol=0.05 * np.abs(want).max())


def test_front_and_tail_make_the_whole_encoder(encoder: DinoV2, image: np.ndarray, tmp_path: Path) -> None:
    with torch.no_grad():
        got = Tail(encoder)(torch.from_numpy(Front(encoder)(image))[None])[0].numpy()
    want = tokens_of(encoder, image, tmp_path)
    assert got.shape == want.shape == (1 + GRID[0] * GRID[1], 4 * 384)
    near = (got * want).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(want, axis=1)
    assert near.min() > 0.99


def test_a_tuned_tail_gets_into_the_encoder(encoder: DinoV2, image: np.ndarray, tmp_path: Path) -> None:
    """Changed last blocks change the last layer's tokens alone, to what the tail itself gives."""
    tail = Tail(encoder)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in tail.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05 * parameter.abs().mean())
        want = tail(torch.from_numpy(Front(encoder)(image))[None])[0].numpy()
    tuned = tokens_of(with_tail(encoder, tail.state_dict()), image, tmp_path)
    before = tokens_of(encoder, image, tmp_path)
    np.testing.assert_array_equal(tuned[:, : 3 * 384], before[:, : 3 * 384])
    last, moved = tuned[:, 3 * 384 :], want[:, 3 * 384 :]
    assert np.abs(last - before[:, 3 * 384 :]).mean() > 5 * np.abs(last - moved).mean()


def test_gradients_reach_every_block(encoder: DinoV2, image: np.ndarray) -> None:
    tail = Tail(encoder)
    out = tail(torch.from_numpy(Front(encoder)(image))[None])
    (out * torch.randn_like(out)).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in tail.parameters())
    assert all(p.grad.abs().max() > 0 for n, p in tail.named_parameters() if n.endswith("weight"))
