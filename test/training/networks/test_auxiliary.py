"""The auxiliary selection head."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")

from torch.nn.functional import normalize  # noqa: E402

from ovs_ros.training.networks.auxiliary import AuxiliaryHead  # noqa: E402


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
