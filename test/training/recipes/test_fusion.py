"""The fusion in torch, its training on made-up maps, and that run time computes the same."""

import csv
import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from fakes import COLORS, ColorImageEncoder, ColorTextEncoder, color_image
from onnx_encoders import save_encoder
from rich.console import Console
from typer.testing import CliRunner

torch = pytest.importorskip("torch", reason="training needs torch: pip install '.[train]'")

from ovs_ros.cli import train  # noqa: E402
from ovs_ros.encoders import embedded  # noqa: E402
from ovs_ros.encoders.feature_map import FeatureMap, FeatureMapEncoder, MapInput  # noqa: E402
from ovs_ros.encoders.fusion import FusedImageEncoder, FusionWeights, with_second  # noqa: E402
from ovs_ros.training.distributed import Ranks  # noqa: E402
from ovs_ros.training.loop import train as train_recipe  # noqa: E402
from ovs_ros.training.options import FusionOptions  # noqa: E402
from ovs_ros.training.recipes.fusion import Fusion, FusionRecipe, FusionSample, read_samples  # noqa: E402

torch.set_num_threads(1)
DIM, CHANNELS = 12, 6
CPU = Ranks(0, 1, torch.device("cpu"))


def random_fusion() -> Fusion:
    torch.manual_seed(0)
    fusion = Fusion(CHANNELS, DIM, start=0.3)
    torch.nn.init.normal_(fusion.projection.weight)
    torch.nn.init.normal_(fusion.projection.bias)
    torch.nn.init.normal_(fusion.mix)
    return fusion


def units(*shape: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_it_starts_as_the_first_encoder_and_every_part_learns() -> None:
    fusion = Fusion(CHANNELS, DIM)
    first, second = torch.from_numpy(units(2, 3, DIM)), torch.randn(2, 3, CHANNELS)
    torch.testing.assert_close(fusion(first, second), first)
    assert fusion.weight.shape == ()
    fusion = random_fusion()
    (fusion(first, second) * torch.randn(2, 3, DIM)).sum().backward()
    for name, parameter in fusion.named_parameters():
        assert parameter.grad is not None and (parameter.grad != 0).all(), name


def test_run_time_computes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    fusion = Fusion(CHANNELS, ColorImageEncoder.dim)
    for parameter in fusion.parameters():
        torch.nn.init.normal_(parameter)
    save_encoder(tmp_path / "e.onnx", channels=CHANNELS)
    second = FeatureMapEncoder(tmp_path / "e.onnx")
    feature_map = FeatureMap(
        np.random.default_rng(0).standard_normal((2, 3, CHANNELS), np.float32), (1.0, 1.0)
    )
    monkeypatch.setattr(second, "encode", lambda image: feature_map)
    weights = FusionWeights(
        float(fusion.weight.detach()),
        fusion.projection.weight.detach().numpy().T,
        fusion.projection.bias.detach().numpy(),
        MapInput(),
        second.digest,
    )
    image = color_image([["red", "blue", "green"], ["white", "red", "black"]], 16)
    encoder = FusedImageEncoder(ColorImageEncoder(), second, weights)
    got = encoder.encode(image).patch_tokens  # (2, 3, D)
    first = ColorImageEncoder().encode(image).patch_tokens
    expected = fusion(torch.from_numpy(first), torch.from_numpy(feature_map.values))
    np.testing.assert_allclose(got, expected.detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.fixture
def second(tmp_path: Path) -> FeatureMapEncoder:
    save_encoder(tmp_path / "e.onnx", channels=CHANNELS)
    return FeatureMapEncoder(tmp_path / "e.onnx")


def test_it_learns_what_only_the_second_encoder_sees(second: FeatureMapEncoder, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    words = units(3, DIM, seed=1)
    samples = []
    for _ in range(8):
        truth = rng.integers(0, 3, (4, 5))
        seen = rng.standard_normal((4, 5, CHANNELS)) * 50 + 300  # Of another scale than the first's.
        seen[..., 0] = 300 + 50 * truth
        label = truth.repeat(4, axis=0).repeat(4, axis=1).astype(np.uint8)
        label[0] = 255
        first = np.broadcast_to(units(DIM), (4, 5, DIM))
        samples.append(FusionSample(first.astype(np.float16), seen.astype(np.float16), label, (1.0, 1.0)))
    options = FusionOptions(steps=150, batch=4, rate=0.02, warm_up=7, log_every=10)
    train_recipe(FusionRecipe(options, CPU, samples, words, 20.0, second), tmp_path / "run", quiet())
    with (tmp_path / "run" / "losses.csv").open(newline="") as file:
        losses = [float(row["pixels"]) for row in csv.DictReader(file)]
    assert losses[-1] < 0.5 * losses[0]
    sample, weights = samples[0], FusionWeights.load(tmp_path / "run" / "fusion.npz")
    fused = weights.weight * sample.first + (1 - weights.weight) * (
        sample.second.astype(np.float32) @ weights.projection + weights.bias
    )
    right = (fused @ words.T).argmax(-1) == sample.label[2::4, 2::4]
    assert right.mean() > 0.9


def test_padding_and_unlabelled_pixels_teach_nothing(second: FeatureMapEncoder) -> None:
    first = units(4, 4, DIM).astype(np.float16)
    seen = np.random.default_rng(2).standard_normal((4, 4, CHANNELS)).astype(np.float16)
    label = np.full((16, 16), 255, np.uint8)
    label[:4] = 0
    words = units(2, DIM, seed=3)

    def loss_with(patches: np.ndarray) -> float:
        sample = FusionSample(patches, seen, label, (0.5, 1.0))
        return float(
            FusionRecipe(FusionOptions(), CPU, [sample], words, 20.0, second).sample_loss(sample).detach()
        )

    changed = first.copy()
    changed[3:] = -changed[3:]
    assert loss_with(changed) == pytest.approx(loss_with(first), rel=1e-6)
    changed[0] = -changed[0]
    assert loss_with(changed) != pytest.approx(loss_with(first), rel=1e-3)


def quiet() -> Console:
    return Console(file=io.StringIO())


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    split = tmp_path / "set" / "train"
    for folder in ("image", "label"):
        (split / folder).mkdir(parents=True)
    for number, names in enumerate((("red", "blue"), ("blue", "red"), ("red", "red"))):
        image = color_image([names], 32)
        cv2.imwrite(str(split / "image" / f"{number}.png"), image[..., ::-1])
        label = (image == COLORS["blue"]).all(axis=-1).astype(np.uint8)
        cv2.imwrite(str(split / "label" / f"{number}.png"), label)
    (tmp_path / "set" / "classes.txt").write_text("red\nblue\n")
    return split


def test_the_command_writes_what_run_time_takes(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_encoder(tmp_path / "e.onnx", size=("height", "width"), channels=CHANNELS)
    monkeypatch.setattr(embedded, "load", lambda name, models: (ColorImageEncoder(), ColorTextEncoder()))
    monkeypatch.setattr(train, "find_spec", lambda name: object())
    arguments = ["fusion", labelled, "--second", tmp_path / "e.onnx", "-o", tmp_path / "run"]
    more = ["--size", 32, 64, "--steps", 2, "--batch", 1, "--mean", 0, 0, 0, "--images", 2]
    result = CliRunner().invoke(train.app, [str(argument) for argument in (*arguments, *more)])
    assert result.exit_code == 0, result.output
    file = tmp_path / "run" / "fusion.npz"
    weights = FusionWeights.load(file)
    assert 0 < weights.weight < 1
    assert (weights.wanted.size, weights.wanted.mean) == ((32, 64), (0.0, 0.0, 0.0))
    with_second(ColorImageEncoder(), tmp_path / "e.onnx", file)
    arguments[-1] = tmp_path / "another"
    result = CliRunner().invoke(train.app, [str(argument) for argument in arguments])
    assert result.exit_code == 2 and "expected a size (H, W)" in result.output


def test_a_folder_is_encoded_with_its_names(labelled: Path, second: FeatureMapEncoder) -> None:
    samples, words = read_samples(labelled, ColorImageEncoder(), ColorTextEncoder(), second, 2)
    assert len(samples) == 2 and words.shape == (2, ColorImageEncoder.dim)
    assert set(np.unique(samples[0].label)) == {0, 1} and set(np.unique(samples[1].label)) == {0}
    (labelled.parent / "classes.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"expected classes\.txt in"):
        read_samples(labelled, ColorImageEncoder(), ColorTextEncoder(), second)
