"""Words to embeddings: which texts are embedded, how they are averaged, and what the cache spares."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from fakes import ColorTextEncoder

from ovs_ros.vocabulary import prompts as prompts_module
from ovs_ros.vocabulary.attributes import Attributes, CategoryAttributes, load_attributes
from ovs_ros.vocabulary.cache import EmbeddingCache
from ovs_ros.vocabulary.prompts import (
    WORDS_A_BATCH,
    embed,
    texts_for,
)
from ovs_ros.vocabulary.vocabulary import CategorySpec, Vocabulary, VocabularyError


class AxisEncoder:
    """Embeds each known text as the axis, or the axis' opposite, that a table names."""

    name = "fake-axes"
    dim = 3
    templates = ("{}",)
    keeps_prompts = False
    axes = {"up": [0, 1, 0], "down": [0, -1, 0], "right": [1, 0, 0], "sky": [0, 0, 1]}

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([self.axes[text] for text in texts], np.float32)


@pytest.mark.parametrize(
    ("prompts", "templates", "texts"),
    [
        ((), ("{}", "a photo of a {}"), ("chair", "a photo of a chair")),
        (("a {} and a {}", "a seat"), ("{}", "a photo of a {}"), ("a chair and a chair", "a seat")),
        ((), (), ("chair",)),
    ],
)
def test_texts(prompts: tuple[str, ...], templates: tuple[str, ...], texts: tuple[str, ...]) -> None:
    assert texts_for("chair", prompts, templates) == texts


def test_prompts_are_averaged_and_brought_to_unit_norm() -> None:
    vocabulary = Vocabulary.from_specs(["right", CategorySpec("corner", ("up", "right", "right"))], ["sky"])
    embedded = embed(vocabulary, AxisEncoder())
    expected = [[1, 0, 0], [2 / 5**0.5, 1 / 5**0.5, 0], [0, 0, 1]]
    np.testing.assert_allclose(embedded.embeddings, expected, rtol=1e-6)
    assert embedded.vocabulary is vocabulary


def test_synonyms_are_said_as_the_name_is() -> None:
    corner = CategorySpec("right", synonyms=("up",))
    prompted = CategorySpec("corner", ("{}", "sky"), synonyms=("up",))
    encoder = AxisEncoder()
    encoder.axes = {**encoder.axes, "corner": [1, 0, 0]}
    embedded = embed(Vocabulary.from_specs([corner, prompted]), encoder)
    expected = [np.array([1, 1, 0]) / 2**0.5, np.array([1, 1, 2]) / 6**0.5]
    np.testing.assert_allclose(embedded.embeddings, expected, rtol=1e-6)


@pytest.mark.filterwarnings("error")
def test_prompts_that_cancel_out_are_refused_and_not_cached(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path)
    vocabulary = Vocabulary.from_specs([CategorySpec("nowhere", ("up", "down"))])
    for _ in range(2):
        with pytest.raises(VocabularyError, match="that mean something together, got .up., .down., whose"):
            embed(vocabulary, AxisEncoder(), cache)


def test_words_get_their_own_rows_over_many_batches() -> None:
    names = [f"word {i}" for i in range(2 * WORDS_A_BATCH + 5)]
    encoder = ColorTextEncoder()
    seen: list[tuple[int, int]] = []
    embedded = embed(Vocabulary.from_names(names, ["red"]), encoder, progress=lambda *at: seen.append(at))
    assert seen == [(64, 134), (128, 134), (134, 134)]
    for i in (0, WORDS_A_BATCH, len(names) - 1):
        alone = embed(Vocabulary.from_names([names[i]]), encoder).embeddings[0]
        np.testing.assert_allclose(embedded.embeddings[i], alone, atol=1e-6)
    np.testing.assert_allclose(embedded.embeddings[-1], encoder.encode(["red"])[0], atol=1e-6)


def test_only_what_the_cache_lacks_is_encoded(tmp_path: Path) -> None:
    first = Vocabulary.from_names(["red", "blue"], ["green"])
    before = embed(first, ColorTextEncoder(), EmbeddingCache(tmp_path))
    encoder = ColorTextEncoder()
    changed = first.added([CategorySpec("yellow"), CategorySpec("cyan", ("all {}",))]).removed(["blue"])
    after = embed(changed, encoder, EmbeddingCache(tmp_path))
    assert encoder.encoded == ["yellow", "a photo of yellow", "all cyan"]
    np.testing.assert_array_equal(after.embeddings[0], before.embeddings[0])
    np.testing.assert_array_equal(after.embeddings[-1], before.embeddings[-1])


def test_the_cache_changes_no_bit(tmp_path: Path) -> None:
    vocabulary = Vocabulary.from_names([f"word {i}" for i in range(100)], ["green"])
    encoded = embed(vocabulary, ColorTextEncoder())
    fresh = embed(vocabulary, ColorTextEncoder(), EmbeddingCache(tmp_path))
    kept = embed(vocabulary, ColorTextEncoder(), EmbeddingCache(tmp_path))
    np.testing.assert_array_equal(fresh.embeddings, encoded.embeddings)
    np.testing.assert_array_equal(kept.embeddings, encoded.embeddings)


def test_other_weights_are_another_entry(tmp_path: Path) -> None:
    vocabulary = Vocabulary.from_names(["red"])
    embed(vocabulary, ColorTextEncoder(), EmbeddingCache(tmp_path))
    encoder = ColorTextEncoder()
    encoder.name = "fake-colour-words, trained longer"
    embed(vocabulary, encoder, EmbeddingCache(tmp_path))
    assert encoder.encoded == ["red", "a photo of red"]


CHAIR = CategoryAttributes(
    "chair", color="brown", shape="four legs", context="at a table", synonyms=("seat",)
)


def test_one_text_says_what_a_thing_looks_like() -> None:
    prompts = Attributes([CHAIR], 0.5)
    assert prompts.texts("seat") == ("a seat at a table: brown; four legs",)
    assert prompts.texts("spaceship") == ()
    assert Attributes([CHAIR], 0.0).texts("seat") == ()


class LooksEncoder(AxisEncoder):
    """Knows a chair and its looks."""

    axes = {
        "chair": [1, 0, 0],
        "a chair: brown": [0, 1, 0],
        "a chair: brown; tall": [0, 0, 1],
        "desk": [1, 0, 0],
    }


@pytest.mark.parametrize("weight", [0.25, 0.5, 1.0])
def test_looks_are_mixed_in_by_their_weight(weight: float, tmp_path: Path) -> None:
    known = [CategoryAttributes("chair", color="brown", texture="tall")]
    vocabulary = Vocabulary.from_specs(["chair", "desk", CategorySpec("Chair 2", ("chair",))])
    prompts = Attributes(known, weight)
    mixed = (1 - weight) * np.array([1, 0, 0]) + weight * np.array([0, 0, 1])
    cache = EmbeddingCache(tmp_path)
    for _ in range(2):  # Encoded, then from the cache.
        got = embed(vocabulary, LooksEncoder(), cache, attributes=prompts).embeddings
        np.testing.assert_allclose(got[0], mixed / np.linalg.norm(mixed), atol=1e-6)
        np.testing.assert_allclose(got[1:], [[1, 0, 0], [1, 0, 0]], atol=1e-6)
    plain = embed(vocabulary, LooksEncoder(), cache).embeddings
    np.testing.assert_allclose(plain, [[1, 0, 0]] * 3, atol=1e-6)


def test_a_category_with_prompts_of_its_own_keeps_to_them() -> None:
    known = [CategoryAttributes("chair", color="brown")]
    vocabulary = Vocabulary.from_specs([CategorySpec("chair", ("desk",))], ["chair"])
    got = embed(vocabulary, LooksEncoder(), attributes=Attributes(known, 1.0)).embeddings
    np.testing.assert_allclose(got, [[1, 0, 0], [0, 1, 0]], atol=1e-6)


def test_attribute_settings_are_checked_even_when_they_are_off() -> None:
    assert load_attributes("off", 0.1) is None
    for weight in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="expected a weight of attributes from 0 to 1"):
            load_attributes("off", weight)


class KeepingEncoder(ColorTextEncoder):
    """Wants three prompts of each word apart."""

    name = "fake-colour-words, apart"
    templates = ("{}", "the {}", "a photo of {}")
    keeps_prompts = True


def test_prompts_are_kept_apart_in_the_order_of_templates(tmp_path: Path) -> None:
    vocabulary = Vocabulary.from_specs(["mug", CategorySpec("cup", ("red {}", "a {}"))], ["wall"])
    seen: list[tuple[int, int]] = []
    cache = EmbeddingCache(tmp_path)
    words = embed(vocabulary, KeepingEncoder(), cache, lambda *at: seen.append(at))
    assert words.prompts is not None and words.prompts.dtype == np.float16
    expected = [
        KeepingEncoder().encode(texts)
        for texts in (
            ("mug", "the mug", "a photo of mug"),
            ("red cup", "a cup", "red cup"),  # Its own two take turns.
            ("wall", "the wall", "a photo of wall"),
        )
    ]
    np.testing.assert_allclose(words.prompts, expected, atol=1e-3)
    assert seen[-1] == (3, 3)
    apart = np.array([expected[0].mean(axis=0), expected[1][:2].mean(axis=0), expected[2].mean(axis=0)])
    means = apart / np.linalg.norm(apart, axis=1, keepdims=True)
    np.testing.assert_allclose(words.embeddings, means, atol=1e-6)
    with pytest.raises(ValueError, match="read-only"):
        words.prompts[0] = 0


def test_prompts_kept_apart_are_means_over_synonyms() -> None:
    vocabulary = Vocabulary.from_specs([CategorySpec("red", synonyms=("blue",))])
    words = embed(vocabulary, KeepingEncoder())
    assert words.prompts is not None
    both = KeepingEncoder().encode(("red", "the red", "a photo of red")) + KeepingEncoder().encode(
        ("blue", "the blue", "a photo of blue")
    )
    np.testing.assert_allclose(
        words.prompts[0], both / np.linalg.norm(both, axis=1, keepdims=True), atol=1e-3
    )


def test_texts_kept_apart_are_encoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts_module, "TEXTS_A_BATCH", 6)
    names = [f"word {i}" for i in range(7)]
    first = KeepingEncoder()
    before = embed(Vocabulary.from_names(names, ["red"]), first, EmbeddingCache(tmp_path))
    assert len(first.encoded) == 3 * 8
    second = KeepingEncoder()
    spec = CategorySpec("all", ("the word 3", "every word"))
    changed = Vocabulary.from_specs([*reversed(names), spec], ["red"])
    after = embed(changed, second, EmbeddingCache(tmp_path))
    assert second.encoded == ["every word"]
    assert before.prompts is not None and after.prompts is not None
    np.testing.assert_array_equal(after.prompts[:7], before.prompts[6::-1])
    np.testing.assert_array_equal(after.embeddings[:7], before.embeddings[6::-1])
    np.testing.assert_array_equal(after.prompts[7, [0, 2]], before.prompts[[3, 3], 1])
    np.testing.assert_array_equal(after.prompts[8], before.prompts[7])


def test_prompts_kept_apart_take_the_looks_too() -> None:
    class Keeping(LooksEncoder):
        keeps_prompts = True

    known = [CategoryAttributes("chair", color="brown", texture="tall")]
    vocabulary = Vocabulary.from_specs(["chair", CategorySpec("Chair 2", ("chair",))])
    words = embed(vocabulary, Keeping(), attributes=Attributes(known, 0.5))
    assert words.prompts is not None
    np.testing.assert_allclose(words.prompts[:, 0], words.embeddings, atol=1e-3)
    np.testing.assert_allclose(words.embeddings[0], np.array([1, 0, 1]) / 2**0.5, atol=1e-6)


def test_prompts_apart_that_cancel_out_are_refused() -> None:
    class Keeping(AxisEncoder):
        keeps_prompts = True

    vocabulary = Vocabulary.from_specs([CategorySpec("nowhere", ("up", "down"))])
    with pytest.raises(VocabularyError, match="that mean something together, got .up., .down., whose"):
        embed(vocabulary, Keeping())


def test_more_words_than_memory_for_their_prompts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = KeepingEncoder()
    monkeypatch.setattr(prompts_module, "MOST_PROMPTS_BYTES", 2 * 3 * encoder.dim * 4)
    embed(Vocabulary.from_names(["red", "blue", "green"], ["sky"]), encoder)
    encoded = len(encoder.encoded)
    with pytest.raises(VocabularyError, match="at most 4 words.*keeps 3 prompts.*got 5; use fewer words"):
        embed(Vocabulary.from_names(["red", "blue", "green", "gray"], ["sky"]), encoder)
    assert len(encoder.encoded) == encoded


def test_other_encoders_keep_no_prompts() -> None:
    assert embed(Vocabulary.from_names(["red"]), ColorTextEncoder()).prompts is None
