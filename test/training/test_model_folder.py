"""A trained network is a part of a model folder: trained, loaded, exported, it gives the same logits."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")

from clip_models import open_clip_or_skip, register_small  # noqa: E402

open_clip_or_skip()

from training.made_up import COLOURS, write_tree  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

import ovs_ros  # noqa: E402
from ovs_ros.cli.main import app  # noqa: E402
from ovs_ros.encoders.clip.open_clip_models import build_clip  # noqa: E402
from ovs_ros.encoders.model_file import read_model_file  # noqa: E402
from ovs_ros.training.recipes.full import prepare  # noqa: E402
from ovs_ros.vocabulary.vocabulary import Vocabulary  # noqa: E402
from ovs_ros.zoo.coarse_to_fine import checkpoint  # noqa: E402
from ovs_ros.zoo.coarse_to_fine.network import CoarseToFine  # noqa: E402
from ovs_ros.zoo.families import load_dense_model  # noqa: E402
from ovs_ros.zoo.survey import count_cost, is_here  # noqa: E402

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


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    """A picture of 64 x 64 pixels, the grid of 4 x 4 patches that training saw."""
    label = np.zeros((64, 64), int)
    label[:32, 32:], label[32:, :32], label[32:, 32:] = 1, 2, 3
    return np.array(list(COLOURS.values()), np.uint8)[label]


@torch.inference_mode()
def test_the_loaded_model_gives_the_logits_that_training_saw(trained: Path, image: NDArray[np.uint8]) -> None:
    file = read_model_file(trained)
    pair, _ = prepare("embedded", replace(file, network=""))
    network = checkpoint.load(trained.parent / "network.pt")
    assert any(p.abs().max() > 0 for p in network.head.parameters())  # It starts as zero: it learned.
    pixels, words = torch.from_numpy(image).permute(2, 0, 1)[None].float(), pair.words(list(COLOURS))
    want = network(pair.features(pixels), words[None]).logits[0]
    model = load_dense_model(file)
    mean, std = (255 * torch.tensor(values).reshape(1, 3, 1, 1) for values in (model.mean, model.std))
    padded = torch.cat([words, torch.zeros(3, *words.shape[1:])])  # Words of zeros do not count.
    got = model.decode(model.dense((pixels - mean) / std), padded)[: len(words)]
    torch.testing.assert_close(got, want, atol=1e-4, rtol=0)


def test_it_segments_and_its_export_segments_alike(
    trained: Path, image: NDArray[np.uint8], tmp_path: Path
) -> None:
    exact = trained.with_name("exact.yaml")
    exact.write_text(trained.read_text() + "precision: fp32\npatches: 16\n")
    run("export", exact, "-o", tmp_path / "exported", "--size", "64x64")
    vocabulary = Vocabulary.from_names(list(COLOURS))
    found = []
    (tmp_path / "exported.yaml").write_text("model: ./exported")
    for name in (exact, tmp_path / "exported.yaml"):
        segmenter = ovs_ros.load(str(name), select=False, threshold=0.0)
        words = segmenter.embed(vocabulary)
        found.append((segmenter.score(image, words).logits, segmenter.segment(image, words).labels))
    (torch_logits, torch_labels), (onnx_logits, onnx_labels) = found
    np.testing.assert_allclose(onnx_logits, torch_logits, atol=1e-3)
    assert (onnx_labels == torch_labels).mean() > 0.99


def test_it_is_evaluated(trained: Path, tmp_path: Path) -> None:
    tree = trained.parents[1] / "tree"
    run("evaluate", tree / "val", "--model", trained.parent, "--json", tmp_path / "result.json")
    assert json.loads((tmp_path / "result.json").read_text())["images"] == 6


def test_its_cost_is_counted_with_the_network(trained: Path) -> None:
    file = read_model_file(trained)
    assert is_here(file) and not is_here(replace(file, network="nowhere.pt"))
    network = checkpoint.load(trained.parent / "network.pt")
    alone, both = (count_cost(one, height=64, width=64, words=4) for one in (replace(file, network=""), file))
    assert both.parameters - alone.parameters == sum(p.numel() for p in network.parameters())
    assert both.flops > alone.flops


def test_another_networks_encoders_are_refused(trained: Path, tmp_path: Path) -> None:
    file = read_model_file(trained)
    with pytest.raises(ValueError, match="attention: maskclip"):
        load_dense_model(replace(file, attention="naclip"))
    with pytest.raises(ValueError, match="expected 80 templates.*got 1"):
        load_dense_model(replace(file, templates=("a {}",)))
    config = checkpoint.load(trained.parent / "network.pt").config
    other = CoarseToFine(replace(config, shallow=(32, 32)))
    checkpoint.save(other, tmp_path / "network.pt")
    with pytest.raises(ValueError, match="expected a network over .*64, 64.*got one over .*32, 32"):
        load_dense_model(replace(file, network=str(tmp_path / "network.pt")))
