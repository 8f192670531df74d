"""The candidate sets of a batch, and the truth about them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")

from torch.nn.functional import normalize  # noqa: E402

from ovs_ros.encoders.features import Features  # noqa: E402
from ovs_ros.encoders.heads import CosineHead  # noqa: E402
from ovs_ros.options import SegmenterOptions  # noqa: E402
from ovs_ros.steps.selection import select  # noqa: E402
from ovs_ros.training.data import IGNORE  # noqa: E402
from ovs_ros.training.networks.candidates import (  # noqa: E402
    Candidates,
    choose,
    elected,
    present,
    shares,
    targets,
)
from ovs_ros.vocabulary.vocabulary import Vocabulary  # noqa: E402
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings  # noqa: E402
from ovs_ros.zoo.coarse_to_fine.network_inputs import ImageFeatures  # noqa: E402


def rows(columns: list[set[int]], categories: int) -> torch.Tensor:
    """(B, K) bool from a set of columns for each image."""
    return torch.tensor([[k in row for k in range(categories)] for row in columns])


def chosen(candidates: Candidates) -> list[set[int]]:
    return [
        set(c[m].tolist()) for c, m in zip(candidates.columns.numpy(), candidates.mask.numpy(), strict=True)
    ]


sets_of_columns = st.lists(
    st.tuples(st.sets(st.integers(0, 9)), st.sets(st.integers(0, 9))), min_size=1, max_size=4
)


@given(sets_of_columns, st.integers(0, 12), st.integers(0, 2**31))
@settings(max_examples=100, deadline=None)
def test_the_union_is_chosen_and_distractors_come_on_top(sets, distractors, seed) -> None:
    true, selected = (rows([pair[i] for pair in sets], 10) for i in range(2))
    torch.manual_seed(seed)
    candidates = choose(true, selected, distractors=distractors)
    for columns, mask, (there, named) in zip(candidates.columns, candidates.mask, sets, strict=True):
        union = there | named
        kept = columns[mask].tolist()
        assert union <= set(kept)
        assert len(kept) == len(set(kept)) == min(10, len(union) + distractors)
        assert not columns[~mask].any()
        assert mask.tolist() == sorted(mask.tolist(), reverse=True)
    assert candidates.mask.any(0).all() or candidates.mask.shape[1] == 1  # no wider than needed


@given(sets_of_columns, st.integers(1, 10), st.integers(0, 2**31))
@settings(max_examples=100, deadline=None)
def test_true_categories_stay_whatever_the_limit(sets, most, seed) -> None:
    sets = [(set(sorted(there)[:most]), named) for there, named in sets]
    true, selected = (rows([pair[i] for pair in sets], 10) for i in range(2))
    torch.manual_seed(seed)
    candidates = choose(true, selected, distractors=3, most=most)
    for kept, (there, named) in zip(chosen(candidates), sets, strict=True):
        assert there <= kept
        assert len(kept) == min(most, len(there | named) + min(3, 10 - len(there | named)))
        assert named <= kept or kept <= there | named  # distractors go before what selection named


def test_distractors_come_from_the_pool_and_vary() -> None:
    nobody = rows([set(), set()], 10)
    pool = rows([{2, 3, 4, 5}], 10)[0]
    torch.manual_seed(0)
    draws = (choose(nobody, nobody, distractors=2, pool=pool) for _ in range(20))
    drawn = [frozenset(row) for draw in draws for row in chosen(draw)]
    assert all(s <= {2, 3, 4, 5} and len(s) == 2 for s in drawn)
    assert len(set(drawn)) > 3


def test_true_categories_stay_beyond_the_limit() -> None:
    true = rows([{0, 1, 2}, {3}], 4)
    assert chosen(choose(true, ~true, most=2))[0] == {0, 1, 2}
    assert [len(row) for row in chosen(choose(true, ~true, most=2))] == [3, 2]


@given(st.integers(0, 2**31), st.floats(1.0, 100.0))
@settings(max_examples=40, deadline=None)
def test_training_elects_what_the_run_time_selects(seed, scale) -> None:
    generator = torch.Generator().manual_seed(seed)
    grid = normalize(torch.randn(1, 3, 4, 16, generator=generator), dim=-1)
    words = normalize(torch.randn(12, 16, generator=generator), dim=-1)
    whole = normalize(grid.mean((1, 2)) + 0.3 * words[:1], dim=-1)
    named = elected(ImageFeatures(grid, whole), words, torch.ones(1, 12, dtype=torch.bool), scale)
    features = Features(
        class_token=whole[0].numpy(),
        patch_tokens=grid[0].numpy(),
        head=CosineHead(grid[0].numpy(), scale),
        valid=(1.0, 1.0),
        logit_scale=scale,
    )
    vocabulary = Vocabulary.from_names([f"word {i}" for i in range(12)])
    selected = select(features, WordEmbeddings(vocabulary, words.numpy()), SegmenterOptions())
    assert named[0].nonzero()[:, 0].tolist() == selected.classes.tolist()


def test_only_known_words_are_elected() -> None:
    words = torch.eye(4)
    patches = torch.stack([words[0], words[0], words[2]]).view(1, 1, 3, 4)
    features = ImageFeatures(patches=patches, image=words[:1])
    known = torch.tensor([[True, True, True, True]])
    assert elected(features, words, known, 20.0).tolist() == [[True, False, True, False]]
    assert not elected(features, words, torch.tensor([[False, True, False, True]]), 20.0)[0, [0, 2]].any()


def test_present_names_what_labels_hold() -> None:
    labels = torch.tensor([[[0, 2], [IGNORE, 2]], [[IGNORE, IGNORE], [IGNORE, IGNORE]]])
    assert present(labels, 4).tolist() == [[True, False, True, False], [False] * 4]


def test_a_foreign_label_is_refused() -> None:
    with pytest.raises(ValueError, match="labels from 0 to 3 or 65535, got 7"):
        present(torch.full((1, 2, 2), 7), 4)


def test_targets_say_which_candidate_a_pixel_is() -> None:
    candidates = Candidates(torch.tensor([[3, 0, 0]]), torch.tensor([[True, True, False]]))
    labels = torch.tensor([[[0, 3, IGNORE, 2]]])
    true, counted = targets(labels, candidates)
    assert true[0, :, 0].int().tolist() == [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert counted[0, 0].tolist() == [True, True, False, True]


def test_255_is_a_column_of_a_long_vocabulary() -> None:
    candidates = Candidates(torch.tensor([[255]]), torch.tensor([[True]]))
    true, counted = targets(torch.tensor([[[255, 65535]]]), candidates)
    assert true.tolist() == [[[[True, False]]]]
    assert counted.tolist() == [[[True, False]]]


def test_shares_are_of_the_labelled_pixels_of_a_patch() -> None:
    candidates = Candidates(torch.tensor([[1, 4]]), torch.ones(1, 2, dtype=torch.bool))
    labels = torch.tensor([[[1, 1, 4, IGNORE], [1, 4, IGNORE, IGNORE]]])
    share, known = shares(labels, candidates, (1, 2))
    np.testing.assert_allclose(share[0, :, 0], [[0.75, 0.0], [0.25, 1.0]])
    np.testing.assert_allclose(known[0, 0], [1.0, 0.25])
