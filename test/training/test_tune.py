"""The encoder cut in two for tuning, and put together again."""

import numpy as np
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")

from ovs_ros.encoders.embedded import MODELS  # noqa: E402
from ovs_ros.geometry.resample import resample_grid  # noqa: E402
from ovs_ros.training.build_image_encoder import (  # noqa: E402
    DinoWeights,
    build,
    fold_normalisation,
    unfold_normalisation,
)
from ovs_ros.training.read_encoder import read_encoder  # noqa: E402
from ovs_ros.training.tune import Front, Tail, with_tail  # noqa: E402

GRID = (3, 4)


@pytest.fixture(scope="module")
def weights() -> DinoWeights:
    return read_encoder(MODELS)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (6, 8, 3), np.uint8)
    return np.ascontiguousarray(coarse.repeat(7, axis=0).repeat(7, axis=1))


def tokens_of(weights: DinoWeights, image: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(
        build(weights, int8=True).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    positions = resample_grid(weights.positions, *GRID).reshape(-1, 384)
    return session.run(None, {"image": image, "positions": positions})[0]


def test_shipped_weights_come_back_from_the_file(weights: DinoWeights, image: np.ndarray) -> None:
    shipped = ort.InferenceSession(str(MODELS / "image_encoder.onnx"), providers=["CPUExecutionProvider"])
    positions = resample_grid(weights.positions, *GRID).reshape(-1, 384)
    want = shipped.run(None, {"image": image, "positions": positions})[0]
    np.testing.assert_allclose(tokens_of(weights, image), want, atol=0.05 * np.abs(want).max())


def test_unfolding_undoes_folding() -> None:
    rng = np.random.default_rng(0)
    kernel, bias = rng.standard_normal((4, 3, 2, 2)).astype(np.float32), np.ones(4, np.float32)
    again = unfold_normalisation(*fold_normalisation(kernel, bias))
    np.testing.assert_allclose(again[0], kernel, rtol=1e-4)
    np.testing.assert_allclose(again[1], bias, atol=1e-3)


def test_front_and_tail_make_the_whole_encoder(weights: DinoWeights, image: np.ndarray) -> None:
    with torch.no_grad():
        got = Tail(weights)(torch.from_numpy(Front(weights)(image))[None])[0].numpy()
    want = tokens_of(weights, image)
    assert got.shape == want.shape == (1 + GRID[0] * GRID[1], 4 * 384)
    near = (got * want).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(want, axis=1)
    assert near.min() > 0.99


def test_a_tuned_tail_gets_into_the_encoder(weights: DinoWeights, image: np.ndarray) -> None:
    """Changed last blocks change the last layer's tokens alone, to what the tail itself gives."""
    tail = Tail(weights)
    with torch.no_grad():
        for parameter in tail.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05 * parameter.abs().mean())
        want = tail(torch.from_numpy(Front(weights)(image))[None])[0].numpy()
    tuned, before = tokens_of(with_tail(weights, tail.state_dict()), image), tokens_of(weights, image)
    np.testing.assert_array_equal(tuned[:, : 3 * 384], before[:, : 3 * 384])
    last, moved = tuned[:, 3 * 384 :], want[:, 3 * 384 :]
    assert np.abs(last - before[:, 3 * 384 :]).mean() > 5 * np.abs(last - moved).mean()


def test_gradients_reach_every_block(weights: DinoWeights, image: np.ndarray) -> None:
    tail = Tail(weights)
    out = tail(torch.from_numpy(Front(weights)(image))[None])
    (out * torch.randn_like(out)).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in tail.parameters())
    assert all(p.grad.abs().max() > 0 for n, p in tail.named_parameters() if n.endswith("weight"))
