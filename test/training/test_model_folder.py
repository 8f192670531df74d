"""A trained network is a part of a model folder: trained, loaded, exported, it gives the same logits."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")
pytest.importorskip("tensorboard", reason="tensorboard is not installed (pip install '.[train]')")

from clip_models import open_clip_or_skip, register_small  # noqa: E402

open_clip_or_skip()

from training.made_up import write_tree  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from ovs_ros.cli.main import app  # noqa: E402
from ovs_ros.encoders.clip.open_clip_models import build_clip  # noqa: E402
from ovs_ros.encoders.model_file import read_model_file  # noqa: E402
from ovs_ros.zoo.families import load_dense_model  # noqa: E402

STEPS = "20"


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model file of a run over a small CLIP."""
    folder = tmp_path_factory.mktemp("run")
    write_tree(folder / "tree", height=64, width=64)
    name = register_small(folder, "vit")
    torch.manual_seed(0)
    torch.save(build_clip(name).state_dict(), folder / "weights.pt")
    said = run(
        "train", "full", f"folder={folder / 'tree'}", "-o", folder / "run", "--model",
        f"{name}:{folder / 'weights.pt'}", "--size", "embedded", "--steps", STEPS, "--warm-up", 2,
        "--rate", 0.01, "--batch", 2, "--crop", 4, "--workers", 0, "--device", "cpu",
    )  # fmt: skip
    assert f"ovs segment IMAGE --model {folder / 'run' / 'model.yaml'}" in said
    return folder / "run" / "model.yaml"


def test_it_goes_all_the_way(trained: Path) -> None:
    model = load_dense_model(read_model_file(trained))
    assert model.decodes
