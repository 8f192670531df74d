"""The head and the encoder's tail learn on made-up data, and what they save becomes a model."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")

from rich.console import Console  # noqa: E402
from training.recipes.small_data import write_data  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from ovs_ros.cli.main import app  # noqa: E402
from ovs_ros.encoders.dino import DinoEncoder  # noqa: E402
from ovs_ros.encoders.embedded import GUIDE, MODELS  # noqa: E402
from ovs_ros.training.distributed import Ranks  # noqa: E402
from ovs_ros.training.head import Head  # noqa: E402
from ovs_ros.training.loop import train  # noqa: E402
from ovs_ros.training.options import HeadOptions  # noqa: E402
from ovs_ros.training.recipes.head import HeadRecipe, encode_tokens  # noqa: E402
from ovs_ros.training.views import View  # noqa: E402
from ovs_ros.training.weights import load_weights, mean_state, save_weights  # noqa: E402

CPU = Ranks(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds data/ and cache/."""
    root = tmp_path_factory.mktemp("place")
    write_data(root / "data")
    return root


def run(place: Path, folder: Path, *start: Path, **changes: object) -> None:
    options = {"sets": "rooms", "evaluate": "", "steps": 8, "batch": 2, "warm_up": 2, "log_every": 2,
               "save_every": 4, "precision": "fp32"}  # fmt: skip
    made = HeadOptions(**{**options, **changes})
    recipe = HeadRecipe(made, CPU, place / "data", place / "cache", MODELS, start)
    train(recipe, folder, Console(file=io.StringIO()))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_head_learns_and_another_run_goes_on_from_it(place: Path, tmp_path: Path) -> None:
    run(place, tmp_path / "first", steps=16, evaluate="rooms")
    losses = rows(tmp_path / "first" / "losses.csv")
    assert {"pixels", "captions", "nouns", "names"} <= set(losses[0])
    assert float(losses[-1]["pixels"]) < 0.7 * float(losses[0]["pixels"])
    (result,) = rows(tmp_path / "first" / "evaluation.csv")
    assert result["set"] == "rooms" and 0 <= float(result["miou"]) <= 1
    run(place, tmp_path / "second", tmp_path / "first", steps=2, rate=1e-9)
    first, second = (load_weights(tmp_path / name)["head"] for name in ("first", "second"))
    torch.testing.assert_close(second, first, atol=1e-6, rtol=1e-4)


def test_a_stopped_run_ends_in_the_same_weights(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(place, tmp_path / "straight")
    loss = HeadRecipe.loss

    def killed(self: HeadRecipe, step: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        if step == 6:
            raise KeyboardInterrupt
        return loss(self, step, rng)

    monkeypatch.setattr(HeadRecipe, "loss", killed)
    with pytest.raises(KeyboardInterrupt):
        run(place, tmp_path / "stopped")
    monkeypatch.undo()
    run(place, tmp_path / "stopped")
    want, got = (load_weights(tmp_path / name)["head"] for name in ("straight", "stopped"))
    assert all(torch.equal(value, got[name]) for name, value in want.items())


def test_the_tail_is_tuned_and_the_mean_of_runs_becomes_a_model(place: Path, tmp_path: Path) -> None:
    run(place, tmp_path / "first", steps=2)
    command = ["train", "tune", place / "data", "-o", tmp_path / "second", "--start", tmp_path / "first"]
    command += [
        "--sets",
        "rooms",
        "--evaluate",
        "rooms",
        "--steps",
        5,
        "--batch",
        2,
        "--warm-up",
        1,
        "--precision",
        "fp32",
    ]
    said = invoke(*command)
    assert "step 5, rooms: mIoU 0." in said
    parts = load_weights(tmp_path / "second")
    assert set(parts) == {"head", "tail"}
    models = tmp_path / "models"
    models.mkdir()
    for name in (
        "position_table.npy",
        "text_encoder.onnx",
        "tokenizer.json",
        "seen_words.txt",
        "network.onnx",
    ):
        (models / name).symlink_to(MODELS / name)
    said = invoke(
        "train", "export", f"{tmp_path / 'first'}=0.25", f"{tmp_path / 'second'}=0.75", "--models", models
    )
    assert "the head and the tail" in said
    result = tmp_path / "result.json"
    invoke("evaluate", place / "data" / "rooms" / "val", "--models", models, "--json", result)
    assert result.is_file()
    assert "expected RUN or RUN=SHARE" in invoke("train", "export", f"{tmp_path / 'first'}=0", code=2)
    assert "expected a file with weights" in invoke("train", "export", tmp_path / "nowhere", code=2)


def invoke(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "400"})
    assert result.exit_code == code, result.output
    return result.output


def test_several_runs_are_averaged(tmp_path: Path) -> None:
    states = [{key: torch.full_like(v, n) for key, v in Head().state_dict().items()} for n in (1.0, 3.0)]
    for name, state in zip("ab", states, strict=True):
        (tmp_path / name).mkdir()
        save_weights(tmp_path / name, head=state)
    parts = [load_weights(tmp_path / name)["head"] for name in "ab"]
    assert all((value == 2.0).all() for value in mean_state(parts).values())
    assert all((value == 2.5).all() for value in mean_state(parts, [1, 3]).values())


@pytest.fixture(scope="module")
def encoder() -> DinoEncoder:
    return DinoEncoder(MODELS / "image_encoder.onnx", np.load(MODELS / "position_table.npy"))


def quadrants(height: int, width: int) -> View:
    """An image whose four quarters have the labels 0 to 3 and colours to match."""
    label = np.zeros((height, width), np.uint8)
    label[:, width // 2 :] += 1
    label[height // 2 :] += 2
    return View(np.repeat(label[..., None] * 60, 3, axis=2), (label,))


def test_encoded_views_keep_tokens_guide_and_labels(encoder: DinoEncoder) -> None:
    view = quadrants(112, 168)
    record = encode_tokens(encoder, view, (8, 12))
    scales = record["scales"][:, None].astype(np.float32)
    tokens, want = record["tokens"] * scales, encoder.tokens(view.image)
    assert tokens.shape == (97, encoder.width)
    # Half a step, and what float16 takes from a scale (2**-11) for the largest of 127 steps.
    assert (np.abs(tokens - want) <= scales * (0.5 + 127 / 2**11) * 1.001).all()
    np.testing.assert_allclose(127 * scales[:, 0], np.abs(want).max(axis=1), rtol=1e-3)
    label = record["label_0"]
    assert label.shape == (8 * GUIDE, 12 * GUIDE)
    assert [label[0, 0], label[0, -1], label[-1, 0], label[-1, -1]] == [0, 1, 2, 3]
    np.testing.assert_array_equal(record["guide"][0, -1], view.image[0, -1])


def test_padding_is_ignored(encoder: DinoEncoder) -> None:
    label = encode_tokens(encoder, quadrants(100, 168), (8, 12))["label_0"]
    assert (label[-6:] == 255).all() and (label[:56] != 255).all()
