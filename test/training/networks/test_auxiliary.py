"""The auxiliary selection head."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")

from torch.nn.functional import normalize  # noqa: E402

from ovs_ros.encoders.features import Features  # noqa: E402
from ovs_ros.encoders.heads import CosineHead  # noqa: E402
from ovs_ros.options import SegmenterOptions  # noqa: E402
from ovs_ros.steps.selection import select  # noqa: E402
from ovs_ros.steps.selection_head import SelectionHead  # noqa: E402
from ovs_ros.training.networks.auxiliary import AuxiliaryHead  # noqa: E402
from ovs_ros.vocabulary.vocabulary import Vocabulary  # noqa: E402
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings  # noqa: E402


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


@torch.no_grad()
def test_the_run_time_selects_by_the_trained_head(tmp_path: Path) -> None:
    head, (patches, words) = trained(), features()
    head.write(tmp_path / "selection.npz")
    kept = SelectionHead(tmp_path / "selection.npz")
    np.testing.assert_allclose(
        kept(patches[0].flatten(0, 1).numpy()), head.embed(patches)[0].flatten(0, 1), atol=1e-5
    )
    winners = head(patches[:1], words[:1]).argmax(1).unique().tolist()
    texts = normalize(words[0].mean(1), dim=-1).numpy()
    plain = (patches[0] @ torch.from_numpy(texts).T).argmax(-1).unique().tolist()
    assert winners != plain
    seen = patches[0].numpy()
    given = Features(seen[0, 0], seen, CosineHead(seen, 20.0), (1.0, 1.0), 20.0)
    vocabulary = WordEmbeddings(Vocabulary.from_names(list("abcde")), texts)
    options = SegmenterOptions(rule="top_n", top_n=1)
    assert select(given, vocabulary, options, head=kept).classes.tolist() == winners
    assert select(given, vocabulary, options).classes.tolist() == plain


def test_another_file_is_no_head(tmp_path: Path) -> None:
    np.savez(tmp_path / "selection.npz", scale=np.float32(3))
    with pytest.raises(ValueError, match="expected a selection head .* cannot be read as one"):
        SelectionHead(tmp_path / "selection.npz")
