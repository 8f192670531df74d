"""Training of the embedded network on what the run time gives."""

import io
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")

from rich.console import Console  # noqa: E402
from training.recipes.small_data import write_data  # noqa: E402

from ovs_ros.encoders.embedded import MODELS  # noqa: E402
from ovs_ros.encoders.heads import ConvexHead  # noqa: E402
from ovs_ros.steps.network import Network  # noqa: E402
from ovs_ros.training.cache import Cache  # noqa: E402
from ovs_ros.training.distributed import Ranks  # noqa: E402
from ovs_ros.training.loop import train  # noqa: E402
from ovs_ros.training.options import NetworkOptions  # noqa: E402
from ovs_ros.training.recipes.network import GRID, NetworkRecipe, upsample  # noqa: E402
from ovs_ros.zoo.coarse_to_fine import checkpoint  # noqa: E402

CPU = Ranks(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds data/ and cache/."""
    root = tmp_path_factory.mktemp("place")
    write_data(root / "data")
    return root


def recipe(place: Path, **changes: object) -> NetworkRecipe:
    options = {"sets": "rooms", "evaluate": "rooms", "steps": 3, "batch": 2, "distractors": 1, **changes}
    return NetworkRecipe(NetworkOptions(**options), CPU, place / "data", place / "cache", MODELS)


def test_views_are_kept_as_the_run_time_sees_them(place: Path) -> None:
    recipe(place)
    assert len(list((place / "cache").iterdir())) == 3
    (full,) = (place / "cache").glob("projected_*_rooms_full")
    views = Cache(full)
    assert len(views) == 2
    patches = views["patches"].astype(np.float32)
    assert patches.shape[:3] == (2, *GRID)
    np.testing.assert_allclose(np.linalg.norm(patches, axis=3), 1, atol=2e-3)
    labels = views.labels[0][0]
    assert labels.shape == (4 * GRID[0], 4 * GRID[1])
    assert labels[0, -1] == 0 and labels[-1, -1] == 1 and labels[0, 0] == 255


def test_logits_are_upsampled_as_the_run_time_does_it() -> None:
    rng = np.random.default_rng(0)
    h, w, words, narrow = 3, 4, 5, 6
    coarse = rng.standard_normal((h, w, words)).astype(np.float32)
    weights = rng.dirichlet(np.ones(9), (h * w, 16)).astype(np.float32)
    details = rng.standard_normal((h * w, 16, narrow)).astype(np.float32)
    asked = rng.standard_normal((words, narrow)).astype(np.float32)
    # With unit words along the axes, patches are their own cosines.
    want = ConvexHead(coarse, weights, details, asked, 1.0).logits(np.eye(words, dtype=np.float32))
    got = upsample(
        torch.from_numpy(coarse).permute(2, 0, 1)[None],
        torch.from_numpy(weights)[None],
        torch.from_numpy(details @ asked.T).permute(2, 0, 1)[None],
    )
    np.testing.assert_allclose(got[0].permute(1, 2, 0).numpy(), want, atol=1e-4)


@pytest.mark.parametrize("loss", ["softmax", "bce"])
def test_steps_change_the_network_and_the_file_runs(place: Path, tmp_path: Path, loss: str) -> None:
    made = recipe(place, loss=loss)
    before = {key: value.clone() for key, value in made.model.network.state_dict().items()}
    losses = made.loss(0, np.random.default_rng(0))
    assert set(losses) == {"pixels", "alignment"}
    assert all(torch.isfinite(loss) for loss in losses.values())
    said = io.StringIO()
    train(made, tmp_path, Console(file=said))
    assert "step 3, rooms: mIoU 0." in said.getvalue()
    after = made.model.network.state_dict()
    assert not after["head.weight"].equal(before["head.weight"])
    assert (made.model.bias is not None) == (loss == "bce")
    assert checkpoint.load(tmp_path / "network.pt").config == made.model.network.config
    assert Network(tmp_path / "network.onnx").dim == 256


def test_a_network_that_upsamples_itself_is_refused(place: Path) -> None:
    with pytest.raises(ValueError, match="0 levels"):
        recipe(place, parts="levels=1")


def test_an_unknown_pixel_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="bce, softmax, got 'dice'"):
        NetworkOptions(loss="dice")
