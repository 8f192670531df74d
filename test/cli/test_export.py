"""`ovs export` on a small model, and what it refuses."""

from pathlib import Path

import pytest
from clip_models import open_clip_or_skip, small_clip
from typer.testing import CliRunner

open_clip_or_skip()
pytest.importorskip("onnx", reason="writes ONNX files")

import torch  # noqa: E402

from ovs_ros.cli.main import app  # noqa: E402
from ovs_ros.encoders.clip.vit import OpenClipViT  # noqa: E402
from ovs_ros.encoders.manifest import read_manifest  # noqa: E402
from ovs_ros.zoo import families as load_dense_model  # noqa: E402


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["export", *arguments], env={"COLUMNS": "200"})
    return result.exit_code, result.output


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model file whose model is small, with random weights."""
    small = OpenClipViT(small_clip()[0], name="small")
    monkeypatch.setattr(load_dense_model, "load_dense_model", lambda file: small)
    path = tmp_path / "small.yaml"
    path.write_text("model: ViT-B-16\npatches: 20\ntemplates: ['a {}']\n")
    return str(path)


def test_it_writes_a_folder_and_says_the_cosines_and_times(model: str, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    code, said = run(
        model, "-o", str(tmp_path / "out"), "--size", "60x80", "--compare", "2", "--threads", "1"
    )
    torch.set_num_threads(threads)
    assert code == 0, said
    manifest = read_manifest(tmp_path / "out")
    assert (manifest.rows, manifest.columns) == (4, 5)
    assert manifest.templates == ["a {}"] and manifest.precisions == ["fp32"]
    for name in ("image.fp32.onnx", "text.fp32.onnx"):
        assert f"{name}: cosines with torch" in said
    for row in ("torch, fp32", "ONNX Runtime, fp32"):
        assert row in said


@pytest.mark.parametrize("embedded", ["stream", "quality"])
def test_the_embedded_model_is_onnx_already(embedded: str, tmp_path: Path) -> None:
    code, said = run(embedded, "-o", str(tmp_path))
    assert code == 2 and "which is ONNX already" in said


@pytest.mark.parametrize(
    ("lines", "expected"),
    [("model: .", "which is ONNX already"), ("model: ViT-B-16\nwindow: 224", "one pass over the image")],
)
def test_models_that_cannot_be_exported_are_named(lines: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text(lines)
    code, said = run(str(tmp_path / "model.yaml"), "-o", str(tmp_path / "out"))
    assert code == 2 and expected in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", ["480", "480x", "0x640", "axb", "480x640x3"])
def test_sizes_that_are_none_are_refused(model: str, size: str, tmp_path: Path) -> None:
    code, said = run(model, "-o", str(tmp_path / "out"), "--size", size)
    assert code == 2 and "HEIGHTxWIDTH" in said
