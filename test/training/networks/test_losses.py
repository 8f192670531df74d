"""The losses: least for right answers, blind to padding and order, felt by every parameter."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")
from torch.nn import functional as F  # noqa: E402

from ovs_ros.training.data import IGNORE  # noqa: E402
from ovs_ros.training.networks.candidates import Candidates, targets  # noqa: E402
from ovs_ros.training.networks.losses import (  # noqa: E402
    TextPixelAlignment,
    binary_cross_entropy,
    even_bias,
    patch_cross_entropy,
)

PIXEL_LOSSES = [binary_cross_entropy, patch_cross_entropy]
CATEGORIES = 6


def scene(seed: int, *, height: int = 4, width: int = 6) -> tuple[torch.Tensor, Candidates]:
    """Labels (2, H, W) of the first image's columns 0 to 3 and the second's 1 to 2, some of them ignored."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (2, height, width), generator=generator)
    labels[1] = labels[1] % 2 + 1
    labels[torch.rand(labels.shape, generator=generator) < 0.1] = IGNORE
    columns = torch.tensor([[0, 1, 2, 3, 5], [1, 2, 4, 0, 0]])
    return labels, Candidates(columns, torch.tensor([[True] * 5, [True] * 3 + [False] * 2]))


def perfect(labels: torch.Tensor, candidates: Candidates) -> torch.Tensor:
    return (targets(labels, candidates)[0].float() * 2 - 1) * 50


@pytest.mark.parametrize("loss", PIXEL_LOSSES)
def test_a_perfect_answer_costs_nothing(loss) -> None:
    labels, candidates = scene(0)
    assert loss(perfect(labels, candidates), labels, candidates) == pytest.approx(0.0, abs=1e-6)


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_a_wrong_answer_costs_more(seed) -> None:
    labels, candidates = scene(seed)
    noise = torch.randn(2, 5, 4, 6, generator=torch.Generator().manual_seed(seed))
    for loss in PIXEL_LOSSES:
        assert loss(-perfect(labels, candidates), labels, candidates) > loss(noise, labels, candidates) > 0.1


@given(st.integers(0, 1000), st.floats(-40, 40))
@settings(max_examples=20, deadline=None)
def test_padding_changes_no_pixel_loss(seed, value) -> None:
    labels, candidates = scene(seed)
    logits = torch.randn(2, 5, 4, 6, generator=torch.Generator().manual_seed(seed))
    more = Candidates(
        torch.cat([candidates.columns, torch.zeros(2, 3, dtype=torch.long)], 1),
        torch.cat([candidates.mask, torch.zeros(2, 3, dtype=torch.bool)], 1),
    )
    padded = torch.cat([logits, torch.full((2, 3, 4, 6), value)], 1)
    for loss in PIXEL_LOSSES:
        torch.testing.assert_close(loss(padded, labels, more), loss(logits, labels, candidates))


@given(st.permutations(range(5)))
@settings(max_examples=20, deadline=None)
def test_the_order_of_candidates_changes_no_pixel_loss(order) -> None:
    labels, candidates = scene(3)
    logits = torch.randn(2, 5, 4, 6, generator=torch.Generator().manual_seed(3))
    shuffled = Candidates(candidates.columns[:, order], candidates.mask[:, order])
    for loss in PIXEL_LOSSES:
        torch.testing.assert_close(loss(logits[:, order], labels, shuffled), loss(logits, labels, candidates))


def whole_scene(seed: int) -> tuple[torch.Tensor, Candidates]:
    """Labels, some of them ignored, where all categories are candidates."""
    labels = scene(seed)[0]
    assert (labels == IGNORE).any()
    columns = torch.arange(CATEGORIES).expand(2, -1)
    return labels, Candidates(columns, torch.ones(2, CATEGORIES, dtype=torch.bool))


def test_the_pixel_loss_is_the_mean_over_labelled_pixels() -> None:
    labels, everything = whole_scene(7)
    logits = torch.randn(2, CATEGORIES, *labels.shape[1:], generator=torch.Generator().manual_seed(5))
    true = F.one_hot(labels.clamp(max=CATEGORIES - 1), CATEGORIES).permute(0, 3, 1, 2).float()
    each = F.binary_cross_entropy_with_logits(logits, true, reduction="none").mean(dim=1)  # (B, H, W)
    torch.testing.assert_close(
        binary_cross_entropy(logits, labels, everything), each[labels != IGNORE].mean()
    )


def test_the_selection_loss_is_that_of_all_pixels_with_their_patches_logits() -> None:
    labels, everything = whole_scene(7)
    logits = torch.randn(2, CATEGORIES, 2, 3, generator=torch.Generator().manual_seed(6))
    spread = logits.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)  # (2, CATEGORIES, 4, 6)
    torch.testing.assert_close(
        patch_cross_entropy(logits, labels, everything),
        F.cross_entropy(spread, labels, ignore_index=IGNORE),
    )


@pytest.mark.parametrize("loss", PIXEL_LOSSES)
def test_ignored_pixels_get_no_gradient(loss) -> None:
    labels, candidates = scene(1)
    logits = torch.zeros(2, 5, 4, 6, requires_grad=True)
    loss(logits, labels, candidates).backward()
    ignored = (labels == IGNORE)[:, None].expand_as(logits)
    assert not logits.grad[ignored].any()
    assert not logits.grad[1, 3:].any()  # padding
    assert logits.grad[:, :3][~ignored[:, :3]].all()


@pytest.mark.parametrize("loss", PIXEL_LOSSES)
def test_nothing_labelled_costs_nothing(loss) -> None:
    labels, candidates = scene(1)
    logits = torch.zeros(2, 5, 4, 6, requires_grad=True)
    value = loss(logits, torch.full_like(labels, IGNORE), candidates)
    value.backward()
    assert value == 0
    assert not logits.grad.any()


def test_coarse_logits_are_upsampled_to_the_labels() -> None:
    labels = torch.tensor([[[0] * 4 + [1] * 4] * 8])
    candidates = Candidates(torch.tensor([[0, 1]]), torch.ones(1, 2, dtype=torch.bool))
    coarse = torch.tensor([[[[9.0, -9.0]] * 2, [[-9.0, 9.0]] * 2]])  # (1, 2, 2, 2)
    assert 0 < binary_cross_entropy(coarse, labels, candidates) < 0.2


def test_patches_of_several_categories_are_told_their_shares() -> None:
    labels = torch.tensor([[[0, 0, 0, 1]]])
    candidates = Candidates(torch.tensor([[0, 1]]), torch.ones(1, 2, dtype=torch.bool))

    def at(share: float) -> float:
        logits = torch.tensor([share, 1 - share]).log().view(1, 2, 1, 1)
        return float(patch_cross_entropy(logits, labels, candidates))

    assert at(0.75) < min(at(0.7), at(0.8), at(0.99))


@given(st.floats(0.01, 0.9), st.floats(-30, 30))
@settings(max_examples=20, deadline=None)
def test_the_bias_brings_the_mean_probability_to_the_share_of_right_answers(share, shift) -> None:
    logits = 3 * torch.randn(200, generator=torch.Generator().manual_seed(0)) + shift
    assert (logits + even_bias(logits, share)).sigmoid().mean() == pytest.approx(share, abs=1e-3)


@pytest.fixture
def alignment() -> TextPixelAlignment:
    torch.manual_seed(0)
    return TextPixelAlignment(8, 12, width=5)


def test_alignment_convolves_with_the_kernel_that_the_text_makes(alignment) -> None:
    texts, visual = torch.randn(1, 2, 8), torch.randn(1, 4, 6, 12)
    with torch.no_grad():
        made = alignment.text(texts * 8**0.5)[0]
        kernels, bias = made[:, :-1].view(2, 5, 3, 3), made[:, -1]
        projected = alignment.visual(visual).permute(0, 3, 1, 2)
        want = torch.nn.functional.conv2d(projected, kernels / 45**0.5, bias, padding=1)
        torch.testing.assert_close(alignment.maps(texts, visual), want)


def test_alignment_counts_only_what_is_there(alignment) -> None:
    labels, candidates = scene(2)
    texts, visual = torch.randn(2, 5, 8), torch.randn(2, 2, 3, 12)
    want = alignment(texts, visual, labels, candidates)
    texts[0, 4], texts[1, 2:] = 9.0, 9.0  # neither of these categories is there
    torch.testing.assert_close(alignment(texts, visual, labels, candidates), want)
    order = [4, 2, 0, 1, 3]
    shuffled = Candidates(candidates.columns[:, order], candidates.mask[:, order])
    torch.testing.assert_close(alignment(texts[:, order], visual, labels, shuffled), want)
    texts[0, 0] = 9.0
    assert alignment(texts, visual, labels, candidates) != want


def test_alignment_with_perfect_maps_costs_nothing(alignment, monkeypatch) -> None:
    labels, candidates = scene(2)
    monkeypatch.setattr(alignment, "maps", lambda texts, visual: perfect(labels, candidates))
    assert alignment(torch.zeros(2, 5, 8), torch.zeros(2, 4, 6, 12), labels, candidates) < 1e-6


def test_alignment_trains_texts_visual_map_and_itself() -> None:
    torch.manual_seed(0)
    alignment = TextPixelAlignment(8, 12, width=5)
    labels, candidates = scene(2)
    texts = torch.randn(2, 5, 8, requires_grad=True)
    visual = torch.randn(2, 2, 3, 12, requires_grad=True)
    alignment(texts, visual, labels, candidates).backward()
    assert [n for n, p in alignment.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert visual.grad.any(dim=-1).all()
    assert texts.grad.any()


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="an odd kernel, got 4"):
        TextPixelAlignment(8, 8, kernel=4)
