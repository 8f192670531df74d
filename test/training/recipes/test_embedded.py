"""The embedded model from training to the run time, on made-up images of some of its sets."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from rich.console import Console
from saturation import saturating_products
from skimage import data as pictures
from typer.testing import CliRunner

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")


from training.recipes.joint_data import SETS, write_data  # noqa: E402

import ovs_ros  # noqa: E402
from ovs_ros.cli.main import app  # noqa: E402
from ovs_ros.encoders import embedded, minilm  # noqa: E402
from ovs_ros.encoders.embedded import MODELS, EmbeddedTextEncoder  # noqa: E402
from ovs_ros.encoders.pyramid import PyramidImageEncoder  # noqa: E402
from ovs_ros.training.distributed import Ranks  # noqa: E402
from ovs_ros.training.efficientnet import EfficientNetLite  # noqa: E402
from ovs_ros.training.embedded_model import EmbeddedModel, Maps  # noqa: E402
from ovs_ros.training.export_embedded import save_words, write_image_encoder  # noqa: E402
from ovs_ros.training.label_spaces import shipped_label_spaces  # noqa: E402
from ovs_ros.training.loop import train  # noqa: E402
from ovs_ros.training.options import EmbeddedOptions  # noqa: E402
from ovs_ros.training.recipes.embedded import EmbeddedRecipe, choose_spaces, distillation  # noqa: E402

ONE = Ranks(0, 1, torch.device("cpu"))
TINY = {
    "batch": 4, "encoder": "lite0", "without": "idd", "height": 64, "width": 64, "points": 16, "pictures": 2,
    "images": 2, "workers": 0, "precision": "fp32", "rate": 2e-2, "warm_up": 2, "average": 0.9,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_data(root)
    return root


def recipe(data: Path, **options: object) -> EmbeddedRecipe:
    given = EmbeddedOptions(**{**TINY, "sets": ",".join(SETS), **options})
    torch.manual_seed(0)
    return EmbeddedRecipe(given, ONE, data, EfficientNetLite("lite0"), MODELS)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[EmbeddedRecipe, Path]:
    """Twenty steps."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    made = recipe(data, steps=20)
    train(made, folder, Console(quiet=True))
    return made, folder


def test_every_loss_is_logged_and_labels_are_learned(run: tuple[EmbeddedRecipe, Path]) -> None:
    recipe, folder = run
    header, *lines = (folder / "losses.csv").read_text().splitlines()
    assert header.split(",")[3:] == ["loss", *recipe.loss_names]
    assert all(float(value) > 0 for value in lines[-1].split(",")[4:])


def test_held_out_images_and_left_out_sets_are_evaluated_on(run: tuple[EmbeddedRecipe, Path]) -> None:
    recipe, folder = run
    measured = {line.split(",")[1] for line in (folder / "evaluation.csv").read_text().splitlines()[1:]}
    assert measured == {"nyuv2", "voc", "idd"}
    assert len(recipe.sets[1]) == 9, "one of ten images of voc is held out"
    assert not {"vehicle", "building"} & set(recipe.vocabulary.words), "idd is not trained on"
    card = (folder / "models" / "image_encoder.md").read_text()
    assert "| voc | masks | Flickr terms of the photographs, research | no |" in card
    assert "of a set that was left out of training" in card


def test_rare_classes_are_lifted_in_their_own_sets_loss_alone(data: Path) -> None:
    plain, adjusted = (recipe(data, sets="voc", adjustment=value) for value in (0.0, 1.0))
    frequencies = adjusted.sets[0].frequencies
    shown = frequencies > 0
    np.testing.assert_allclose(adjusted.priors[0].numpy()[shown], np.log(frequencies[shown]), rtol=1e-5)
    batch = plain.samples[1]
    losses = [made.pixel_losses(batch, np.random.default_rng(0)) for made in (plain, adjusted)]
    assert losses[0]["joint"].item() == pytest.approx(losses[1]["joint"].item())
    # Words that no image shows hardly compete any more, before anything is learned.
    assert losses[1]["own"] < losses[0]["own"]


def test_ovs_evaluate_gives_the_same_figures(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in a long evaluation: the text encoder is closed, and opened again for the words of the next set.
    monkeypatch.setattr(minilm, "IDLE_S", 0.0)
    made = recipe(data, sets="idd,voc", without="", images=100)
    measured = made.evaluate()["idd"]
    made.save(tmp_path)
    given = ["--held-out", "--models", tmp_path / "models", "--json", tmp_path / "r.json"]
    result = CliRunner().invoke(app, [str(word) for word in ("evaluate", data / "idd" / "train", *given)])
    assert result.exit_code == 0, result.output
    results = json.loads((tmp_path / "r.json").read_text())
    assert results["images"] == 1, "one of ten is held out"
    assert results["names"] > len(results["per_class"]), "unions are asked for by their words"
    assert {name: results[name] for name in measured} == pytest.approx(measured, abs=1e-4)


def test_the_folder_segments(run: tuple[EmbeddedRecipe, Path]) -> None:
    _, folder = run
    segmenter = ovs_ros.load(folder / "models")
    assert re.fullmatch("efficientnet-lite0-int8-[0-9a-f]{8}@192", segmenter.model.name)
    assert segmenter.model.network is None
    words = segmenter.embed(ovs_ros.Vocabulary.from_names(["wall", "door handle"]))
    image = pictures.coffee()
    result = segmenter.segment(image, words)
    assert result.labels.shape == image.shape[:2]
    knowledge = segmenter.model.knowledge
    assert "kettle" in knowledge.labels and "unknown" not in knowledge.labels
    assert {"dog", "apple"} <= knowledge.captions
    assert ovs_ros.load("quality", models=folder / "models").model.name.count("@") == 2


def test_the_run_goes_on_as_if_it_had_not_been_stopped(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is written takes longer than the steps, and has tests of its own.
    monkeypatch.setattr(EmbeddedRecipe, "evaluate", lambda self: {})
    monkeypatch.setattr(EmbeddedRecipe, "save", lambda self, folder: None)
    options = {"sets": "voc,doordetect", "without": "", "steps": 2, "save_every": 1}
    whole = recipe(data, **options)
    train(whole, tmp_path / "whole", Console(quiet=True))

    class Stopped(Exception):
        pass

    stopped = recipe(data, **options)
    go = stopped.loss

    def once(step: int, rng: np.random.Generator) -> dict[str, "torch.Tensor"]:
        if step:
            raise Stopped
        return go(step, rng)

    monkeypatch.setattr(stopped, "loss", once)
    with pytest.raises(Stopped):
        train(stopped, tmp_path / "stopped", Console(quiet=True))
    again = recipe(data, **options)
    train(again, tmp_path / "stopped", Console(quiet=True))
    for one, other in zip(whole.model.state_dict().values(), again.model.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.fixture(scope="module")
def model() -> EmbeddedModel:
    """With weights that make the residual layer, the upsampling and the details count."""
    torch.manual_seed(1)
    made = EmbeddedModel(EfficientNetLite("lite0")).eval()
    for layer in (made.words.back, made.decoder.weights):
        torch.nn.init.normal_(layer.weight, std=0.05)
    for norm in (module for module in made.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        torch.nn.init.uniform_(norm.weight, 0.8, 1.6)
        torch.nn.init.normal_(norm.running_mean, std=0.1)
    return made


def photograph() -> NDArray[np.uint8]:
    """Of the shape of a whole grid, so that nothing is resized."""
    return cv2.resize(pictures.chelsea(), (256, 192), interpolation=cv2.INTER_AREA)


NAMES = ("cat", "carpet", "grass", "sky")


def torch_logits(model: EmbeddedModel, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(H/4, W/4, M), without any code of the run time for images."""
    sentences = EmbeddedTextEncoder(MODELS)  # MiniLM alone is taken from it.
    texts = [template.format(name) for name in NAMES for template in EmbeddedTextEncoder.templates]
    encoded = super(EmbeddedTextEncoder, sentences).encode(texts)
    words = model.words(torch.from_numpy(encoded).view(len(NAMES), -1, 384))
    maps = model(torch.from_numpy(image).permute(2, 0, 1)[None].float())
    places = torch.arange(image.shape[0] // 4 * image.shape[1] // 4)[None]
    logits = model.logits(*model.at(maps, places), words)
    return logits[0].view(image.shape[0] // 4, image.shape[1] // 4, -1).numpy()


def run_time_logits(
    model: EmbeddedModel, folder: Path, calibration: list[NDArray[np.uint8]]
) -> NDArray[np.float32]:
    image = photograph()
    write_image_encoder(model, folder / "image_encoder.onnx", calibration)
    save_words(model.words, folder / "text_head.npz")
    for name in ("text_encoder.onnx", "tokenizer.json"):
        (folder / name).symlink_to(MODELS / name)
    encoder, text = PyramidImageEncoder(folder, cells=48), EmbeddedTextEncoder(folder)
    features = encoder.encode(image)
    assert features.grid == (48, 64) and features.patch_tokens.shape[:2] == (12, 16)
    np.testing.assert_allclose(np.linalg.norm(features.patch_tokens, axis=-1), 1, atol=1e-5)
    templates = [[template.format(name) for template in text.templates] for name in NAMES]
    words = np.stack([text.encode(group).mean(axis=0) for group in templates])
    return features.logits(words / np.linalg.norm(words, axis=1, keepdims=True))


@torch.no_grad()
def test_the_run_time_gives_the_logits_of_torch(model: EmbeddedModel, tmp_path: Path) -> None:
    want = torch_logits(model, photograph())
    assert want.std() > 0.05
    np.testing.assert_allclose(run_time_logits(model, tmp_path, []), want, atol=2e-3)


@torch.no_grad()
def test_int8_is_near_and_cannot_saturate(model: EmbeddedModel, tmp_path: Path) -> None:
    image = photograph()
    got = run_time_logits(model, tmp_path, [image, np.ascontiguousarray(image[:, ::-1])])
    want = torch_logits(model, image)
    assert np.corrcoef(got.ravel(), want.ravel())[0, 1] > 0.95
    network = onnx.load(tmp_path / "image_encoder.onnx")
    assert saturating_products(network) == []
    kernels = [
        t for t in network.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4
    ]
    assert len(kernels) > 50
    changed = onnx.numpy_helper.to_array(kernels[7]).copy()
    assert np.abs(changed).max() == 64
    changed[0, 0, 0, 0] = 65
    kernels[7].CopyFrom(onnx.numpy_helper.from_array(changed, kernels[7].name))
    assert saturating_products(network) == [kernels[7].name]


def test_what_is_added_to_patches_reaches_the_logits(model: EmbeddedModel, tmp_path: Path) -> None:
    write_image_encoder(model, tmp_path / "image_encoder.onnx")
    save_words(model.words, tmp_path / "text_head.npz")
    features = PyramidImageEncoder(tmp_path, cells=48).encode(photograph())
    words = np.eye(2, features.class_token.size, dtype=np.float32)
    added = np.ones((*features.patch_tokens.shape[:2], 2), np.float32)
    np.testing.assert_allclose(features.logits(words, added) - features.logits(words), 1, atol=1e-4)
    assert features.hidden is not None and features.hidden.shape == (*features.patch_tokens.shape[:2], 128)


def test_the_middle_of_a_constant_map_is_its_embedding(model: EmbeddedModel) -> None:
    embedding = torch.nn.functional.normalize(torch.randn(1, 256, 1, 1), dim=1)
    maps = Maps(
        image=embedding[..., 0, 0],
        embeddings=embedding.expand(1, -1, 2, 3),
        weights=torch.rand(1, 9, 4, 6).softmax(1),
        details=torch.arange(24.0).view(1, 1, 4, 6).expand(1, 32, -1, -1),
        hidden=torch.zeros(1, 128, 2, 3),
    )
    embeddings, details = model.at(maps, torch.tensor([[0, 7, 23]]))
    torch.testing.assert_close(embeddings[0], embedding[0, :, 0, 0].expand(3, -1))
    assert details[0, :, 0].tolist() == [0, 7, 23]


def test_distillation_is_least_where_words_say_what_the_classifier_says() -> None:
    words = torch.eye(3)
    seen = 20.0 * words[[0, 1]][:, None, None]  # (2, 1, 1, 3)
    right = distillation(seen, words[[0, 1]][:, None, None], words[[0, 1]], words)
    wrong = distillation(seen, words[[1, 2]][:, None, None], words[[1, 2]], words)
    assert right < 0.01 < 10 < wrong
    assert distillation(seen[:0], seen[:0], seen[:0, 0, 0], words) == 0


def test_sets_are_chosen_by_name_and_by_terms() -> None:
    known = shipped_label_spaces()
    trained, left_out = choose_spaces(known, "permissive", "")
    assert {space.name for space in trained} == {"facades", "campus", "grocery"} and not left_out
    trained, left_out = choose_spaces(known, "all", "idd, campus")
    assert {"idd", "campus"} == {space.name for space in left_out}
    assert len(trained) + 2 == len(known)
    with pytest.raises(ValueError, match="expected sets out of .* got coco"):
        choose_spaces(known, "voc,coco", "")
    with pytest.raises(ValueError, match="masks or boxes"):
        choose_spaces(known, "flickr8k", "")


def test_a_set_with_other_classes_is_refused(data: Path, tmp_path: Path) -> None:
    write_data(tmp_path)
    (tmp_path / "voc" / "classes.txt").write_text("dog\ncat\n")
    with pytest.raises(ValueError, match="label space voc in .*got dog in place of aeroplane"):
        recipe(tmp_path, sets="voc", without="")


def test_embedded_is_a_kind_of_folder(run: tuple[EmbeddedRecipe, Path], tmp_path: Path) -> None:
    assert embedded.is_embedded_model(run[1] / "models") and not embedded.is_embedded_model(tmp_path)
