"""The auxiliary selection head, and the union of every patch's top N."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovs_ros.encoders.features import Features
from ovs_ros.encoders.heads import CosineHead
from ovs_ros.options import SegmenterOptions
from ovs_ros.steps.selection import select
from ovs_ros.vocabulary.vocabulary import Vocabulary
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")

from torch.nn.functional import normalize  # noqa: E402

from ovs_ros.training.networks.auxiliary import AuxiliaryHead, top_n_union  # noqa: E402


def features(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches (2, 3, 4, 16) and words (2, 5, 3, 16)."""
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randn(2, 3, 4, 16, generator=generator)
    return normalize(patches, dim=-1), normalize(torch.randn(2, 5, 3, 16, generator=generator), dim=-1)


def trained() -> AuxiliaryHead:
    torch.manual_seed(0)
    head = AuxiliaryHead(16, hidden=8)
    torch.nn.init.normal_(head.narrow.weight)
    return head


def test_before_training_it_gives_scaled_cosines() -> None:
    patches, words = features()
    want = 20 * torch.einsum("bhwd,bmd->bmhw", patches, normalize(words.mean(2), dim=-1))
    torch.testing.assert_close(AuxiliaryHead(16)(patches, words), want)


def test_categories_do_not_see_each_other() -> None:
    head, (patches, words) = trained(), features()
    order = [3, 0, 4, 1, 2]
    straight = head(patches, words)
    torch.testing.assert_close(head(patches, words[:, order]), straight[:, order])
    padded = torch.cat([words, torch.zeros(2, 2, 3, 16)], dim=1)
    torch.testing.assert_close(head(patches, padded)[:, :5], straight)


def test_it_trains_itself_and_nothing_else() -> None:
    head, (patches, words) = trained(), features()
    patches.requires_grad_(), words.requires_grad_()
    head(patches, words).log_softmax(1)[:, 0].sum().backward()
    assert [n for n, p in head.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert patches.grad is None and words.grad is None


@given(st.integers(0, 1000), st.integers(1, 7))
@settings(max_examples=50, deadline=None)
def test_the_union_is_that_of_the_patches_best(seed, n) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 6, 2, 2, generator=generator)
    mask = torch.tensor([[True] * 6, [False, True, True, False, True, True]])
    logits[1, [0, 3]] = 99.0
    chosen = top_n_union(logits, mask, n)
    for image in range(2):
        columns = [m for m in range(6) if mask[image, m]]
        want = set()
        for y in range(2):
            for x in range(2):
                want |= set(sorted(columns, key=lambda m: -logits[image, m, y, x])[:n])
        assert set(chosen[image].nonzero()[:, 0].tolist()) == want


def test_more_n_than_categories_chooses_all() -> None:
    mask = torch.tensor([[True, False, True]])
    assert top_n_union(torch.randn(1, 3, 2, 2), mask, 8).tolist() == [[True, False, True]]


def test_nobody_to_choose_is_refused() -> None:
    with pytest.raises(ValueError, match="n of at least 1, got 0"):
        top_n_union(torch.randn(1, 3, 2, 2), torch.ones(1, 3, dtype=torch.bool), 0)


@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(0, 2))
@settings(max_examples=30, deadline=None)
def test_the_run_time_selects_the_same(seed, n, negatives) -> None:
    generator = torch.Generator().manual_seed(seed)
    patches = normalize(torch.randn(1, 3, 4, 16, generator=generator), dim=-1)
    words = normalize(torch.randn(1, 12, 1, 16, generator=generator), dim=-1)
    categories = 12 - negatives
    with torch.no_grad():
        logits = AuxiliaryHead(16)(patches, words)  # untrained: scaled cosines, as at run time
    named = top_n_union(logits, torch.ones(1, 12, dtype=torch.bool), n)[0, :categories]
    vocabulary = Vocabulary.from_names(
        [f"word {i}" for i in range(categories)], [f"negative {i}" for i in range(negatives)]
    )
    grid = patches[0].numpy()
    chosen = select(
        Features(
            class_token=np.ascontiguousarray(grid[0, 0]),
            patch_tokens=grid,
            head=CosineHead(grid, 20.0),
            valid=(1.0, 1.0),
            logit_scale=20.0,
        ),
        WordEmbeddings(vocabulary, words[0, :, 0].numpy()),
        SegmenterOptions(rule="top_n", top_n=n, max_categories=12),
    )
    assert chosen.classes.tolist() == named.nonzero()[:, 0].tolist()
