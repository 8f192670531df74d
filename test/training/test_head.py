"""The head in torch, and that its ONNX file computes the same."""

import numpy as np
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")

from ovs_ros.encoders.embedded import LOGIT_SCALE  # noqa: E402
from ovs_ros.encoders.heads import ConvexHead  # noqa: E402
from ovs_ros.training.export_head import read_head, save_text_head, write_image_head  # noqa: E402
from ovs_ros.training.head import SCALE, TOKEN_WIDTH, Head  # noqa: E402


@pytest.fixture
def head() -> Head:
    torch.manual_seed(0)
    head = Head(width=32, dim=24, details=8, mixers=2).eval()
    for mixer in head.mixers:
        torch.nn.init.normal_(mixer.narrow.weight, std=0.1)
    return head


def test_every_trainable_part_gets_a_gradient(head: Head) -> None:
    tokens, guide = torch.randn(1, 5, 6, TOKEN_WIDTH), torch.rand(1, 3, 40, 48)
    hidden, embeddings = head.patches(tokens)
    weights, details = head.upsampling(hidden, guide)
    words = head.embed_words(torch.randn(4, 384))
    pixels = head.pixel_cosines(embeddings, weights, details, words)
    (pixels.logsumexp(1).mean() + (head.whole(tokens[:, 0, 0]) @ words.T).logsumexp(1).mean()).backward()
    assert [n for n, p in head.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_renaming_categories_reorders_the_answer(head: Head) -> None:
    with torch.no_grad():
        hidden, embeddings = head.patches(torch.randn(1, 3, 4, TOKEN_WIDTH))
        weights, details = head.upsampling(hidden, torch.rand(1, 3, 24, 32))
        words = head.embed_words(torch.randn(5, 384))
        order = torch.tensor([3, 0, 4, 1, 2])
        straight = head.pixel_cosines(embeddings, weights, details, words)
        shuffled = head.pixel_cosines(embeddings, weights, details, words[order])
    torch.testing.assert_close(straight[:, order], shuffled)


def test_exported_head_computes_the_same(head: Head, tmp_path) -> None:
    h, w = 5, 6
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((1 + h * w, TOKEN_WIDTH)).astype(np.float32)
    guide = rng.integers(0, 256, (8 * h, 8 * w, 3), np.uint8)
    sentences = rng.standard_normal((4, 384)).astype(np.float32)
    with torch.no_grad():
        inner, embeddings = head.patches(torch.from_numpy(tokens[1:]).view(1, h, w, -1))
        weights, details = head.upsampling(inner, torch.from_numpy(guide).permute(2, 0, 1)[None] / 255.0)
        words = head.embed_words(torch.from_numpy(sentences))
        want = head.pixel_cosines(embeddings, weights, details, words)[0].permute(1, 2, 0).numpy()
        whole = head.whole(torch.from_numpy(tokens[:1]))[0].numpy()
    write_image_head(head, tmp_path / "image_head.onnx", int8=False)
    session = ort.InferenceSession(tmp_path / "image_head.onnx", providers=["CPUExecutionProvider"])
    image, patches, upsampling, detail, hidden = session.run(None, {"tokens": tokens, "guide": guide})
    save_text_head(head, tmp_path / "text_head.npz")
    side = np.load(tmp_path / "text_head.npz")
    embedded = sentences @ side["weight"] + side["bias"]
    embedded /= np.linalg.norm(embedded, axis=1, keepdims=True)
    got = ConvexHead(patches.reshape(h, w, -1), upsampling, detail, side["details"], LOGIT_SCALE).logits(
        embedded
    )
    assert got.shape == (h * SCALE, w * SCALE, 4)
    np.testing.assert_allclose(got / LOGIT_SCALE, want, atol=1e-4)
    np.testing.assert_allclose(image[0], whole, atol=1e-5)
    np.testing.assert_allclose(hidden, inner[0].flatten(0, 1).numpy(), atol=1e-4)


def test_a_head_comes_back_from_its_files(head: Head, tmp_path) -> None:
    for mixer in head.mixers:
        torch.nn.init.normal_(mixer.norm.weight)
        torch.nn.init.normal_(mixer.norm.bias)
    write_image_head(head, tmp_path / "image_head.onnx")
    save_text_head(head, tmp_path / "text_head.npz")
    again = read_head(tmp_path).state_dict()
    for name, value in head.state_dict().items():
        torch.testing.assert_close(again[name], value, rtol=0, atol=float(value.abs().max()) / 100)
