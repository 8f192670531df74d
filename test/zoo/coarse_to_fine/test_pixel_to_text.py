"""P2Tformer: texts look at the image."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")

from torch.nn.functional import normalize  # noqa: E402

from ovs_ros.zoo.coarse_to_fine.pixel_to_text import PixelToText, sinusoidal_positions  # noqa: E402


@pytest.fixture
def part() -> PixelToText:
    torch.manual_seed(0)
    return PixelToText(16, 8, start=0.3).eval()


def words(categories: int, prompts: int = 3) -> torch.Tensor:
    return normalize(torch.randn(2, categories, prompts, 16), dim=-1)


def test_words_become_the_images_own(part) -> None:
    given = words(1)[:1].expand(2, -1, -1, -1)
    moved = part(given, torch.randn(2, 3, 4, 8))
    assert moved.shape == given.shape
    torch.testing.assert_close(moved.norm(dim=-1), torch.ones(2, 1, 3))
    assert (moved[0] - moved[1]).abs().max() > 0.01


def test_the_formula_holds(part) -> None:
    """One head, written out."""
    one = PixelToText(16, 8, heads=1, start=0.3)
    given, visual = words(5), torch.randn(2, 3, 4, 8)
    with torch.no_grad():
        tokens = one.visual_norm(visual.view(2, 12, 8)) + sinusoidal_positions(3, 4, 8, visual.device).view(
            12, 8
        )
        query, key, value = one.query(one.text_norm(given.mean(2))), one.key(tokens), one.value(tokens)
        gathered = one.out((query @ key.transpose(1, 2) / 16**0.5).softmax(dim=-1) @ value)
        want = normalize(given + 0.3 * gathered[:, :, None], dim=-1)
        torch.testing.assert_close(one(given, visual), want)


def test_without_gamma_words_stay() -> None:
    given = words(4)
    torch.testing.assert_close(PixelToText(16, 8, start=0.0)(given, torch.randn(2, 3, 4, 8)), given)


def test_categories_do_not_see_each_other(part) -> None:
    given, visual = words(5), torch.randn(2, 3, 4, 8)
    order = [3, 0, 4, 1, 2]
    straight = part(given, visual)
    torch.testing.assert_close(part(given[:, order], visual), straight[:, order])
    padded = torch.cat([given, torch.zeros(2, 2, 3, 16)], dim=1)
    torch.testing.assert_close(part(padded, visual)[:, :5], straight)


def test_where_something_is_matters(part) -> None:
    given, visual = words(2), torch.randn(2, 3, 4, 8)
    assert (part(given, visual) - part(given, visual.flip(2))).abs().max() > 1e-3


def test_a_finer_grid_of_the_same_image_moves_words_alike(part) -> None:
    given, visual = words(4), torch.randn(2, 6, 8, 8)
    finer = visual.repeat_interleave(4, 1).repeat_interleave(4, 2)
    other = part(given, torch.randn(2, 6, 8, 8))
    difference = (part(given, finer) - part(given, visual)).abs().mean()
    assert difference < 0.1 * (other - part(given, visual)).abs().mean()


def test_positions_tell_all_places_apart() -> None:
    positions = sinusoidal_positions(5, 7, 16, torch.device("cpu")).flatten(0, 1)
    assert (torch.cdist(positions, positions) + torch.eye(35)).min() > 0.1


def test_every_parameter_gets_a_gradient_from_the_first_step() -> None:
    torch.manual_seed(0)
    part = PixelToText(16, 8)
    visual = torch.randn(2, 3, 4, 8, requires_grad=True)
    (part(words(4), visual) * torch.randn(16)).sum().backward()
    assert [n for n, p in part.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert visual.grad.any()


def test_widths_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 4, got 6"):
        PixelToText(16, 6)
