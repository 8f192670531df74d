"""Training of the embedded network on what the run time gives."""

from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")

from rich.console import Console  # noqa: E402

from ovs_ros.encoders.heads import ConvexHead  # noqa: E402
from ovs_ros.steps.network import Network  # noqa: E402
from ovs_ros.training.export_network import export_network  # noqa: E402
from ovs_ros.training.projected import GRID, Projected, pixel_logits  # noqa: E402
from ovs_ros.training.train_network import (  # noqa: E402
    VIEWS,
    NetworkOptions,
    NetworkTrainer,
    project_views,
)
from ovs_ros.zoo.coarse_to_fine import checkpoint  # noqa: E402
from ovs_ros.zoo.coarse_to_fine.config import NetworkConfig  # noqa: E402


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of two small images with floor below and wall above, and the names of three animals."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for kind in ("image", "label"):
        (root / "rooms" / "train" / kind).mkdir(parents=True)
    (root / "rooms" / "classes.txt").write_text("wall\nfloor\nlamp\n")
    label = np.zeros((60, 80), np.uint8)
    label[30:] = 1
    label[:, :4] = 255
    for name in ("a", "b"):
        image = np.where(label[..., None] == 1, 90, 200) + rng.integers(-20, 20, (60, 80, 3))
        cv2.imwrite(str(root / "rooms" / "train" / "image" / f"{name}.png"), image.astype(np.uint8))
        cv2.imwrite(str(root / "rooms" / "train" / "label" / f"{name}.png"), label)
    (root / "imagenet_samples").mkdir()
    (root / "imagenet_samples" / "names.tsv").write_text("a.jpg\tlion\nb.jpg\ttiger\nc.jpg\tseal\n")
    return root


@pytest.fixture(scope="module")
def caches(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("caches")
    project_views(data, folder, ["rooms"])
    return folder


def test_views_are_kept_as_the_run_time_sees_them(caches: Path) -> None:
    assert sorted(p.name for p in caches.iterdir()) == sorted(f"projected_rooms_{kind}" for kind in VIEWS)
    views = Projected(caches / "projected_rooms_full")
    both = np.array([0, 1])
    assert len(views) == 2
    patches = views.read("patches", both)
    assert patches.shape[:3] == (2, *GRID)
    torch.testing.assert_close(patches.norm(dim=3), torch.ones(2, *GRID), atol=2e-3, rtol=0)
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
    got = pixel_logits(
        torch.from_numpy(coarse).permute(2, 0, 1)[None],
        torch.from_numpy(weights)[None],
        torch.from_numpy(details)[None],
        torch.from_numpy(asked)[None],
        1.0,
    )
    np.testing.assert_allclose(got[0].permute(1, 2, 0).numpy(), want, atol=1e-4)


@pytest.mark.parametrize("loss", ["softmax", "bce"])
def test_steps_change_the_network_and_the_file_runs(
    data: Path, caches: Path, tmp_path: Path, loss: str
) -> None:
    options = NetworkOptions(sets=("rooms",), steps=3, batch=2, distractors=1, animals=2, pixel_loss=loss)
    trainer = NetworkTrainer(NetworkConfig.embedded(prompts=1), options, data, caches)
    before = {key: value.clone() for key, value in trainer.network.state_dict().items()}
    losses = trainer.losses()
    assert set(losses) == {"pixels", "alignment", "selection"}
    assert all(torch.isfinite(loss) for loss in losses.values())
    trainer.train(tmp_path / "log.csv", Console(quiet=True))
    changed = [key for key, value in trainer.network.state_dict().items() if not value.equal(before[key])]
    assert "head.weight" in changed
    assert (trainer.bias is not None) == (loss == "bce")
    trainer.save(tmp_path / "network.pt")
    loaded = checkpoint.load(tmp_path / "network.pt")
    export_network(loaded, tmp_path / "network.onnx")
    assert Network(tmp_path / "network.onnx").dim == 256


def test_a_network_that_upsamples_itself_is_refused(data: Path, caches: Path) -> None:
    with pytest.raises(ValueError, match="0 levels"):
        NetworkTrainer(
            NetworkConfig.embedded(prompts=1, levels=1), NetworkOptions(sets=("rooms",)), data, caches
        )


def test_an_unknown_pixel_loss_is_refused(data: Path, caches: Path) -> None:
    options = NetworkOptions(sets=("rooms",), pixel_loss="dice")
    with pytest.raises(ValueError, match="softmax or bce, got 'dice'"):
        NetworkTrainer(NetworkConfig.embedded(prompts=1), options, data, caches)
