"""A trained network makes a model folder: trained, loaded, exported, it gives the same answers."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")

from clip_models import open_clip_or_skip, register_small  # noqa: E402

open_clip_or_skip()

from training.made_up import COLOURS, write_pyramid, write_tree  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

import ovs_ros  # noqa: E402
from ovs_ros.cli.main import app  # noqa: E402
from ovs_ros.encoders.clip.open_clip_models import build_clip  # noqa: E402
from ovs_ros.encoders.model_file import read_model_file  # noqa: E402
from ovs_ros.steps.network import Network  # noqa: E402
from ovs_ros.training.encoder_pair import open_pair  # noqa: E402
from ovs_ros.vocabulary.vocabulary import Vocabulary  # noqa: E402
from ovs_ros.zoo.coarse_to_fine import checkpoint  # noqa: E402
from ovs_ros.zoo.coarse_to_fine.network import CoarseToFine  # noqa: E402
from ovs_ros.zoo.families import load_dense_model  # noqa: E402
from ovs_ros.zoo.survey import count_cost, is_here  # noqa: E402

SETTINGS = (
    "--size", "embedded", "--warm-up", 2, "--rate", 0.01, "--batch", 2, "--view", 64, "--workers", 0,
    "--device", "cpu", "--precision", "fp32",
)  # fmt: skip
PARTS = "levels=1,class_layers=2,pixel_to_text=true,local_kernels=3"


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments: object) -> str:
    """The one line that a command ends with."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 2 and result.output.count("\n") == 1, result.output
    return result.output


def trained_miou(run: Path) -> float:
    """What training measured at the end, on `val`."""
    with (run / "evaluation.csv").open(newline="") as file:
        return float(list(csv.DictReader(file))[-1]["miou"])


def evaluated_miou(model: Path, tree: Path, *more: object) -> float:
    """What `ovs evaluate` measures."""
    path = tree / "result.json"
    run("evaluate", tree / "val", "--model", model, "--json", path, *more)
    return json.loads(path.read_text())["miou"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "tree"
    write_tree(folder, height=64, width=64)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small CLIP with random weights, as --model takes it."""
    folder = tmp_path_factory.mktemp("clip")
    name = register_small(folder, "vit")
    torch.manual_seed(0)
    torch.save(build_clip(name).state_dict(), folder / "weights.pt")
    return f"{name}:{folder / 'weights.pt'}"


def train(model: object, tree: Path, folder: Path, *more: object, steps: int = 20) -> Path:
    said = run(
        "train", "network", f"folder={tree}", "--evaluate", f"folder={tree}", "-o", folder, "--model", model,
        "--steps", steps, *SETTINGS, *more,
    )  # fmt: skip
    assert f"ovs segment IMAGE --model {folder}" in said
    return folder


@pytest.fixture(scope="module")
def trained(clip: str, tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model file of a run over the small CLIP."""
    return train(clip, tree, tmp_path_factory.mktemp("run"), "--parts", PARTS) / "model.yaml"


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    run("export", trained, "-o", folder, "--size", "64x64")
    return folder


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pyramid(tmp_path_factory.mktemp("pyramid"))


@pytest.fixture(scope="module")
def refined(pyramid: Path, tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over an embedded model with random weights."""
    return train(pyramid, tree, tmp_path_factory.mktemp("run"), "--parts", "levels=1", steps=6)


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    """A picture of 64 x 64 pixels, the grid of 4 x 4 patches that training saw."""
    label = np.zeros((64, 64), int)
    label[:32, 32:], label[32:, :32], label[32:, 32:] = 1, 2, 3
    return np.array(list(COLOURS.values()), np.uint8)[label]


@torch.inference_mode()
def test_the_loaded_model_gives_the_logits_that_training_saw(
    clip: str, trained: Path, image: NDArray[np.uint8]
) -> None:
    pair = open_pair(clip, 64)
    network, record = checkpoint.load(trained.parent / "network.pt")
    assert (record.names, record.digest, len(record.templates)) == (tuple(COLOURS), pair.digest, 80)
    assert any(p.abs().max() > 0 for p in network.head.parameters())  # It starts as zero: it learned.
    pixels, words = torch.from_numpy(image).permute(2, 0, 1)[None].float(), pair.words(list(COLOURS))
    want = network(pair.encode(pixels).features, words[None]).logits[0]
    model = load_dense_model(read_model_file(trained))
    mean, std = (255 * torch.tensor(values).reshape(1, 3, 1, 1) for values in (model.mean, model.std))
    padded = torch.cat([words, torch.zeros(3, *words.shape[1:])])  # Words of zeros do not count.
    got = model.decode(model.dense((pixels - mean) / std), padded)[: len(words)]
    torch.testing.assert_close(got, want, atol=1e-4, rtol=0)


def test_training_measures_what_evaluation_does(trained: Path, exported: Path, tree: Path) -> None:
    """In torch, and exported; and with the rule top_n, whose head the export has too."""
    want = trained_miou(trained.parent)
    assert 0 < want < 1
    assert evaluated_miou(trained.parent, tree) == pytest.approx(want, abs=1e-4)
    assert evaluated_miou(exported, tree) == pytest.approx(want, abs=5e-3)
    assert (exported / "selection.npz").is_file()
    by_torch, by_onnx = (evaluated_miou(m, tree, "--rule", "top_n") for m in (trained.parent, exported))
    assert by_onnx == pytest.approx(by_torch, abs=5e-3)


def test_over_the_embedded_model_too(refined: Path, pyramid: Path, tree: Path) -> None:
    assert yaml.safe_load((refined / "model.yaml").read_text()) == {
        "model": str(pyramid), "network": "network.onnx",
    }  # fmt: skip
    want = trained_miou(refined)
    assert evaluated_miou(refined, tree) == pytest.approx(want, abs=1e-4)
    network = refined / "network.onnx"
    by_file = evaluated_miou(pyramid, tree, "--network-file", network)
    assert by_file == pytest.approx(want, abs=1e-4)


def test_it_segments_and_its_export_segments_alike(
    trained: Path, exported: Path, image: NDArray[np.uint8], tmp_path: Path
) -> None:
    exact = trained.with_name("exact.yaml")
    exact.write_text(trained.read_text() + "precision: fp32\n")
    vocabulary = Vocabulary.from_names([*COLOURS, "purple"])
    found = []
    (tmp_path / "exported.yaml").write_text(f"model: {exported}")
    for name in (exact, tmp_path / "exported.yaml"):
        segmenter = ovs_ros.load(str(name), select=False, threshold=0.0)
        words = segmenter.embed(vocabulary)
        assert words.seen.tolist() == [True, True, True, True, False]
        found.append((segmenter.score(image, words).logits, segmenter.segment(image, words).labels))
    (torch_logits, torch_labels), (onnx_logits, onnx_labels) = found
    np.testing.assert_allclose(onnx_logits, torch_logits, atol=1e-3)
    assert (onnx_labels == torch_labels).mean() > 0.99


def test_names_that_the_network_was_trained_on_are_seen(refined: Path) -> None:
    segmenter = ovs_ros.load(refined)
    words = segmenter.embed(Vocabulary.from_names(["car", "yellow", "purple"]))
    assert words.seen.tolist() == [True, True, False]


def test_tuned_attention_is_a_part_of_the_folder(
    clip: str, tree: Path, tmp_path: Path, image: NDArray[np.uint8]
) -> None:
    folder = train(clip, tree, tmp_path / "run", "--tune", "attention", "--tune-rate", 1e-3, steps=5)
    before = open_pair(clip, 64).vit.clip.state_dict()
    after = load_dense_model(read_model_file(folder / "model.yaml")).clip.state_dict()
    moved = set()
    for name, value in before.items():
        if "in_proj" not in name:
            assert torch.equal(value, after[name]), name
            continue
        parts = ("query", "key", "value")
        for part, one, other in zip(parts, value.chunk(3), after[name].chunk(3), strict=True):
            if not torch.equal(one, other):
                moved.add((name, part))
    assert {part for _, part in moved} == {"query", "value"}
    assert {name.partition(".")[0] for name, _ in moved} == {"visual", "transformer"}
    assert len(moved) == 4 * 4  # Three layers and one: queries and values, weights and biases.
    assert evaluated_miou(folder, tree) == pytest.approx(trained_miou(folder), abs=1e-4)
    shutil.copy(folder / "network.pt", folder / "tuned.safetensors")
    assert "safetensors" in refused("evaluate", tree / "val", "--model", folder)


def test_its_cost_is_counted_with_the_network(trained: Path) -> None:
    file = read_model_file(trained)
    assert is_here(file) and not is_here(replace(file, network="nowhere.pt"))
    network, _ = checkpoint.load(trained.parent / "network.pt")
    alone, both = (count_cost(one, height=64, width=64, words=4) for one in (replace(file, network=""), file))
    assert both.parameters - alone.parameters == sum(p.numel() for p in network.parameters())
    assert both.flops > alone.flops


def test_another_networks_encoders_are_refused(trained: Path, tmp_path: Path) -> None:
    file = read_model_file(trained)
    with pytest.raises(ValueError, match="attention: maskclip"):
        load_dense_model(replace(file, attention="naclip"))
    with pytest.raises(ValueError, match="expected 80 templates.*got 1"):
        load_dense_model(replace(file, templates=("a {}",)))
    network, record = checkpoint.load(trained.parent / "network.pt")
    other = CoarseToFine(replace(network.config, shallow=(32, 32)))
    checkpoint.save(other, record, tmp_path / "network.pt")
    with pytest.raises(ValueError, match="expected a network over .*64, 64.*got one over .*32, 32"):
        load_dense_model(replace(file, network=str(tmp_path / "network.pt")))
    torch.manual_seed(1)
    torch.save(build_clip(file.model).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=f"digest .*, got one over .*digest {record.digest}"):
        load_dense_model(replace(file, weights=str(tmp_path / "weights.pt")))


def test_a_wrong_network_file_is_one_line(refined: Path, pyramid: Path, tree: Path, tmp_path: Path) -> None:
    other = shutil.copytree(pyramid, tmp_path / "other")
    with np.load(pyramid / "text_head.npz") as words:
        np.savez(other / "text_head.npz", **{**words, "bias": words["bias"] + 1})
    (tmp_path / "text.onnx").write_text("no network")
    for model, file, said in (
        (pyramid, tmp_path / "none.onnx", "found none"),
        (pyramid, tmp_path / "text.onnx", "no ONNX network"),
        (pyramid, refined / "network.pt", "no ONNX network"),
        (pyramid, pyramid / "image_encoder.onnx", "expected a network with the inputs patches"),
        (other, refined / "network.onnx", "expected a network trained over"),
    ):
        assert said in refused("evaluate", tree / "val", "--model", model, "--network-file", file)
    assert Network(refined / "network.onnx").record.digest
