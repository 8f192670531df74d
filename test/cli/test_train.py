"""`ovs train` before anything is trained."""

from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

import ovs_ros
from ovs_ros.cli import train
from ovs_ros.encoders.clip import imports
from ovs_ros.encoders.embedded import MODELS
from ovs_ros.encoders.minilm import SentenceEncoder
from ovs_ros.segmenter import SegmenterOptions
from ovs_ros.vocabulary.vocabulary import Vocabulary


def test_missing_packages_are_named_with_the_way_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "find_spec", lambda name: None if name == "torch" else object())
    result = CliRunner().invoke(train.app, ["embedded", "data", "-o", "run"])
    assert result.exit_code == 2
    assert "torch" in result.output and ".[train]" in result.output


def test_text_files_rebuild_to_what_is_shipped(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")
    train.write_text_files(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (MODELS / "tokenizer.json").read_bytes()
    texts = ["road", "an old man rides a bicycle in the rain", "Kühlschrank"]
    again, shipped_text = (SentenceEncoder(models).encode(texts) for models in (tmp_path, MODELS))
    np.testing.assert_allclose(again, shipped_text, atol=1e-5)


def test_network_says_what_is_wrong_with_its_sets(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")
    tree = tmp_path / "tree"
    labelled_tree(tree)
    for sets, message in (
        (["coco-stuff"], "expected SET=PATH"),
        ([f"lvis={tmp_path}"], "coco-stuff, ade20k-150"),
        ([f"coco-stuff={tmp_path}"], "stuffthingmaps"),
        ([f"ade20k-150={tmp_path}", "--precision", "int8"], "fp32, bf16, fp16"),
        ([f"folder={tree}", "--model", "ViT-B-16"], "ARCHITECTURE:WEIGHTS"),
    ):
        result = CliRunner().invoke(train.app, ["network", *sets, "-o", str(tmp_path / "run")])
        assert result.exit_code == 2
        assert message in " ".join(result.output.split()), result.output
    assert not (tmp_path / "run").exists()


def labelled_tree(root: Path) -> None:
    """Two classes beside each other, in the project's own form."""
    root.mkdir(exist_ok=True)
    (root / "classes.txt").write_text("floor\nwall\n")
    label = np.zeros((60, 80), np.uint8)
    label[:, 40:] = 1
    for split in ("train", "val"):
        for kind, content in (("image", label[..., None].repeat(3, axis=2) * 200), ("label", label)):
            folder = root / split / kind
            folder.mkdir(parents=True)
            cv2.imwrite(str(folder / "a.png"), content)


def test_network_trains_measures_and_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")
    from training.made_up import write_pyramid

    tree, run, pyramid = tmp_path / "tree", tmp_path / "run", write_pyramid(tmp_path / "pyramid")
    labelled_tree(tree)
    command = ["network", f"folder={tree}", "-o", str(run), "--evaluate", f"folder={tree}"]
    command += ["--model", str(pyramid), "--view", "64", "--batch", "2", "--workers", "0", "--device", "cpu"]
    command += ["--log-every", "1", "--warm-up", "0", "--rate", "0.002"]
    result = CliRunner().invoke(train.app, [*command, "--steps", "2"])
    assert result.exit_code == 0, result.output
    assert "step 2, tree: mIoU" in result.output
    assert len((run / "losses.csv").read_text().splitlines()) == 3
    assert (run / "network.pt").is_file() and (run / "last.pt").is_file()
    image, vocabulary = (
        cv2.imread(str(tree / "val" / "image" / "a.png")),
        Vocabulary.from_names(["floor", "wall"]),
    )
    plain, own = (ovs_ros.load(str(name), select=False) for name in (pyramid, run))
    words = plain.embed(vocabulary)
    without = SegmenterOptions(select=False, network=False)
    np.testing.assert_array_equal(own.score(image, words, without).logits, plain.score(image, words).logits)
    # One step moves the network a little from the plain cosines, which it starts at.
    np.testing.assert_allclose(own.score(image, words).logits, plain.score(image, words).logits, atol=0.5)
    assert np.abs(own.score(image, words).logits - plain.score(image, words).logits).max() > 1e-4
    result = CliRunner().invoke(train.app, [*command, "--steps", "3"])
    assert result.exit_code == 2
    assert "got others: steps;" in " ".join(result.output.split())


def test_network_names_the_package_that_clip_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")
    monkeypatch.setattr(imports, "find_spec", lambda name: None if name == "open_clip" else find_spec(name))
    labelled_tree(tmp_path)
    command = ["network", f"folder={tmp_path}", "-o", str(tmp_path / "run"), "--model", "ViT-B-16:openai"]
    result = CliRunner().invoke(train.app, command, terminal_width=400)
    assert result.exit_code == 2
    assert "pip install '.[clip]'" in result.output
