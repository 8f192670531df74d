"""Model files: what they may say, and what a user hears of one that cannot be."""

from pathlib import Path

import pytest

from ovs_ros.encoders.model_file import MODEL_FILES, ModelFile, find_model_file, read_model_file


def write(folder: Path, text: str) -> Path:
    path = folder / "model.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_what_a_file_leaves_out_has_its_default(tmp_path: Path) -> None:
    file = read_model_file(write(tmp_path, "model: ViT-B-16\nweights: openai\npatches: 500\n"))
    assert file == ModelFile(model="ViT-B-16", weights="openai", patches=500)
    assert (file.attention, file.device, file.precision) == ("naclip", "auto", "auto")


def test_files_beside_it_are_found_whatever_the_working_directory(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "clip.safetensors").touch()
    path = write(tmp_path, "model: ViT-B-16\nweights: clip.safetensors\n")
    monkeypatch.chdir("/")
    assert read_model_file(path).weights == str(tmp_path / "clip.safetensors")
    tower = write(tmp_path, "model: radio\nadaptor_model: ViT-B-16:clip.safetensors\n")
    assert read_model_file(tower).adaptor_model == f"ViT-B-16:{tmp_path / 'clip.safetensors'}"
    tagged = write(tmp_path, "model: radio\nadaptor_model: ViT-B-16:openai\n")
    assert read_model_file(tagged).adaptor_model == "ViT-B-16:openai"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- ViT-B-16\n", "expected a mapping with at least the key model"),
        ("weights: openai\n", "expected a mapping with at least the key model"),
        ("model: [\n", "expected YAML"),
        ("model: ''\n", "expected model to name"),
        ("model: a\nwieghts: b\n", "expected keys out of .*, got wieghts"),
        ("model: a\npatches: many\n", "expected patches to be of type int, got 'many'"),
        ("model: a\noutliers: 1\n", "expected outliers to be of type bool, got 1"),
        ("model: a\npatches: true\n", "expected patches to be of type int, got True"),
        ("model: a\npatches: 0\n", "expected patches to be at least 1, got 0"),
        ("model: a\nattention: best\n", "expected attention to be one of .*naclip.*, got 'best'"),
        ("model: a\nprecision: int4\n", "expected precision to be one of"),
        ("model: a\ndevice: gpu\n", "expected device to be auto, cpu, cuda or cuda:N, got 'gpu'"),
        ("model: a\ndevice: cpu:1\n", "expected device"),
        ("model: a\ntemplates: ['a photo']\n", "expected templates with one"),
    ],
)
def test_a_file_that_cannot_be_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=message) as caught:
        read_model_file(path)
    assert str(path) in str(caught.value)


def test_a_preset_is_a_path_or_a_shipped_name_and_nothing_else(tmp_path: Path) -> None:
    path = write(tmp_path, "model: a\n")
    assert find_model_file(str(path)) == path
    with pytest.raises(ValueError, match="expected the preset to be stream, quality, a model file"):
        find_model_file("fast")


@pytest.mark.parametrize("path", sorted(MODEL_FILES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_files_can_be_read(path: Path) -> None:
    assert find_model_file(path.stem) == path
    read_model_file(path)
