"""Each part learns: thirty steps on coloured squares, named by random vectors, lower its loss."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")

from torch.nn.functional import normalize  # noqa: E402

from ovs_ros.training.networks import losses  # noqa: E402
from ovs_ros.training.networks.auxiliary import AuxiliaryHead  # noqa: E402
from ovs_ros.training.networks.candidates import Candidates, choose, present  # noqa: E402
from ovs_ros.zoo.coarse_to_fine.config import NetworkConfig  # noqa: E402
from ovs_ros.zoo.coarse_to_fine.local_kernels import LocalKernels  # noqa: E402
from ovs_ros.zoo.coarse_to_fine.network import CoarseToFine  # noqa: E402
from ovs_ros.zoo.coarse_to_fine.network_inputs import ImageFeatures  # noqa: E402
from ovs_ros.zoo.coarse_to_fine.pixel_to_text import PixelToText  # noqa: E402

CATEGORIES, DIM, PATCH, GRID = 8, 16, 4, 6
STEPS = 30


@dataclass(frozen=True)
class Squares:
    """Images of a background and three squares; the last two of the names are never there."""

    labels: torch.Tensor  # (B, H, W)
    patches: torch.Tensor  # (B, h, w, D) unit: the patches' colours, which know nothing of the names
    words: torch.Tensor  # (K, 1, D) unit
    candidates: Candidates

    @property
    def chosen_words(self) -> torch.Tensor:
        """(B, M, 1, D)."""
        return self.candidates.pick(self.words)


@pytest.fixture
def squares() -> Squares:
    generator = torch.manual_seed(0)
    labels = torch.zeros(6, GRID * PATCH, GRID * PATCH, dtype=torch.long)
    for image in labels:
        for _ in range(3):
            y, x = (int(v) for v in torch.randint(0, 14, (2,), generator=generator))
            image[y : y + 9, x : x + 9] = torch.randint(1, CATEGORIES - 2, (), generator=generator)
    colours = torch.randn(CATEGORIES, DIM, generator=generator)
    patches = colours[labels].unflatten(1, (GRID, PATCH)).unflatten(3, (GRID, PATCH)).mean(dim=(2, 4))
    patches = patches + 0.1 * torch.randn(patches.shape, generator=generator)
    words = torch.randn(CATEGORIES, 1, DIM, generator=generator)
    true = present(labels, CATEGORIES)
    candidates = choose(true, torch.zeros_like(true), distractors=2)
    return Squares(labels, normalize(patches, dim=-1), normalize(words, dim=-1), candidates)


def train(
    parameters: Iterable[torch.nn.Parameter], loss: Callable[[], torch.Tensor], *, rate: float = 0.02
) -> tuple[float, float]:
    """The loss before and after the steps."""
    optimiser = torch.optim.Adam(parameters, lr=rate)
    values = []
    for _ in range(STEPS):
        optimiser.zero_grad()
        value = loss()
        value.backward()
        optimiser.step()
        values.append(float(value.detach()))
    return values[0], float(loss().detach())


def scaled_cosines(patches: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """(B, M, h, w) of patches (B, h, w, D) and words (B, M, 1, D)."""
    return 20 * (words[:, :, 0] @ patches.flatten(1, 2).mT).unflatten(2, (GRID, GRID))


def test_words_learn_to_look(squares) -> None:
    torch.manual_seed(0)
    part = PixelToText(DIM, DIM)

    def loss() -> torch.Tensor:
        words = part(squares.chosen_words, squares.patches)
        return losses.patch_cross_entropy(
            scaled_cosines(squares.patches, words), squares.labels, squares.candidates
        )

    before, after = train(part.parameters(), loss)
    assert after < 0.5 * before


def test_words_learn_kernels(squares) -> None:
    torch.manual_seed(0)
    part, head = LocalKernels(DIM, DIM, channels=8), torch.nn.Linear(8, 1)

    def loss() -> torch.Tensor:
        costs = part(squares.chosen_words[:, :, 0], squares.patches)  # (B, M, 8, h, w)
        logits = head(costs.movedim(2, -1)).squeeze(-1)
        return losses.binary_cross_entropy(logits, squares.labels, squares.candidates)

    before, after = train([*part.parameters(), *head.parameters()], loss)
    assert after < 0.7 * before


def test_words_learn_to_find_their_pixels(squares) -> None:
    torch.manual_seed(0)
    part = losses.TextPixelAlignment(DIM, DIM, width=8)
    texts, visual = squares.chosen_words[:, :, 0], squares.patches * DIM**0.5
    before, after = train(part.parameters(), lambda: part(texts, visual, squares.labels, squares.candidates))
    assert after < 0.5 * before


def test_the_auxiliary_head_learns_to_select(squares) -> None:
    torch.manual_seed(0)
    head = AuxiliaryHead(DIM, hidden=32)
    everything = torch.ones(len(squares.labels), CATEGORIES, dtype=torch.bool)
    whole = Candidates(torch.arange(CATEGORIES).expand(len(squares.labels), -1), everything)
    words = whole.pick(squares.words)
    true = present(squares.labels, CATEGORIES)

    def chosen() -> torch.Tensor:
        """The categories that some patch takes for the best."""
        with torch.no_grad():
            winners = head(squares.patches, words).argmax(1).flatten(1)
        return torch.zeros_like(everything).scatter_(1, winners, True)

    def loss() -> torch.Tensor:
        return losses.patch_cross_entropy(head(squares.patches, words), squares.labels, whole)

    assert (chosen() & ~true).any()
    before, after = train(head.parameters(), loss)
    assert after < 0.3 * before
    assert (chosen() == true).float().mean() > 0.95


@pytest.mark.parametrize(
    "switches",
    [{}, {"pixel_to_text": True}, {"local_kernels": 3}, {"pixel_to_text": True, "local_kernels": 3}],
)
def test_the_whole_network_learns_with_any_of_the_parts(squares, switches) -> None:
    torch.manual_seed(0)
    config = NetworkConfig(
        dim=DIM, category_attention="linear", spatial="none", levels=1, width=16, text_width=16,
        guide_width=16, heads=2, mlp_ratio=1, residual=False, **switches,
    )  # fmt: skip
    network, alignment = CoarseToFine(config), losses.TextPixelAlignment(DIM, DIM, width=8)
    features = ImageFeatures(squares.patches, normalize(squares.patches.mean(dim=(1, 2)), dim=-1))

    def loss() -> torch.Tensor:
        output = network(features, squares.chosen_words, squares.candidates.mask)
        aligned = alignment(output.words, output.patches, squares.labels, squares.candidates)
        pixels = losses.binary_cross_entropy(output.logits, squares.labels, squares.candidates)
        return pixels + losses.T2P_WEIGHT * aligned

    before, after = train([*network.parameters(), *alignment.parameters()], loss)
    silent = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []
    assert after < 0.8 * before
