"""Model files: what they may say, and what a user hears of one that cannot be."""

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ovs_ros.cli.main import app
from ovs_ros.encoders.model_file import MODEL_FILES, ModelFile, find_model_file, read_model_file
from ovs_ros.load import open_model


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


def test_a_file_that_is_missing_is_not_taken_from_the_working_directory(tmp_path: Path, monkeypatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "clip.safetensors").touch()
    monkeypatch.chdir(elsewhere)
    folder = tmp_path / "here"
    folder.mkdir()
    names = ("weights", "cache", "proxy", "heads")
    path = write(folder, "model: a\n" + "".join(f"{name}: clip.safetensors\n" for name in names))
    file = read_model_file(path)
    assert [getattr(file, name) for name in names] == [str(folder / "clip.safetensors")] * 4
    tower = write(folder, "model: radio\nadaptor_model: ViT-B-16:clip.safetensors\n")
    assert read_model_file(tower).adaptor_model == f"ViT-B-16:{folder / 'clip.safetensors'}"
    assert read_model_file(write(folder, "model: a\nweights: openai\n")).weights == "openai"
    # Nothing lies beside the files that come with the package.
    assert read_model_file(MODEL_FILES / "cat-seg-b.yaml").weights == "model_base.pth"


def test_a_folder_of_weights_may_be_called_as_the_architecture_is(tmp_path: Path, monkeypatch) -> None:
    """As it is where the command was followed that fetches SigLIP's weights."""
    weights = tmp_path / "ViT-B-16-SigLIP2"
    weights.mkdir()
    (weights / "open_clip_model.safetensors").touch()
    path = write(tmp_path, "model: ViT-B-16-SigLIP2\nweights: webli\ncache: .\n")
    monkeypatch.chdir(tmp_path)
    for file in (read_model_file(path), read_model_file(find_model_file("siglip2-b16"))):
        assert file.model == "ViT-B-16-SigLIP2" and not file.exported


@pytest.mark.parametrize("name", ["exported", "./exported", "../FOLDER/exported"])
@pytest.mark.parametrize("left", ["manifest.json", "image.fp32.onnx"])
def test_an_exported_folder_is_found_beside_the_file(tmp_path: Path, name: str, left: str) -> None:
    """Even where one of its files is missing, of which the next error speaks."""
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / left).touch()
    file = read_model_file(write(tmp_path, f"model: {name.replace('FOLDER', tmp_path.name)}\n"))
    assert file.exported and Path(file.model).resolve() == tmp_path / "exported"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- ViT-B-16\n", "expected a mapping with at least the key model"),
        ("weights: openai\n", "expected a mapping with at least the key model"),
        ("model: [\n", "expected YAML"),
        ("model: ''\n", "expected model to name"),
        ("model: a\nwieghts: b\n", "expected keys out of .*, got .wieghts."),
        ("model: a\npatches: many\n", "expected patches to be of type int, got 'many'"),
        ("model: a\npatches: true\n", "expected patches to be of type int, got True"),
        ("model: a\npatches: true\n", "expected patches to be of type int, got True"),
        ("model: a\npatches: 0\n", "expected patches to be at least 1, got 0"),
        ("model: a\nattention: best\n", "expected attention to be one of .*naclip.*, got 'best'"),
        ("model: a\nprecision: int4\n", "expected precision to be one of"),
        ("model: a\ndevice: gpu\n", "expected device to be auto, cpu, cuda or cuda:N, got 'gpu'"),
        ("model: a\ndevice: cpu:1\n", "expected device"),
        ("model: a\ndevice: 'cuda:'\n", "expected device"),
        ("model: a\ntemplates: a photo of {}\n", "expected templates to be a list, got 'a photo of {}'"),
        ("model: a\ntemplates:\n", "expected templates to be a list, got None"),
        ("model: a\ntemplates: {'a {}': 1}\n", "expected templates to be a list"),
        (
            "model: ./a\nattention: sclip\npatches: 9\n",
            "beside the exported .*, got attention, patches",
        ),
        ("model: a\ntemplates: ['a photo']\n", "expected templates with one"),
    ],
)
def test_a_file_that_cannot_be_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=message) as caught:
        read_model_file(path)
    assert str(path) in str(caught.value)


def test_a_model_is_a_path_or_a_shipped_name_and_nothing_else(tmp_path: Path) -> None:
    path = write(tmp_path, "model: a\n")
    assert find_model_file(str(path)) == path
    with pytest.raises(ValueError, match="expected the model to be stream, quality, a model file"):
        find_model_file("fast")


@pytest.mark.parametrize("path", sorted(MODEL_FILES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_files_can_be_read(path: Path) -> None:
    assert find_model_file(path.stem) == path
    read_model_file(path)


class TestWithoutTorch:
    """The base install says what a model file needs, instead of which import failed."""

    @pytest.fixture(autouse=True)
    def no_torch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("image_encoder", "load_dense_model", "text_encoder", "export"):
            monkeypatch.delitem(sys.modules, f"ovs_ros.encoders.clip.{name}", raising=False)
        monkeypatch.setitem(sys.modules, "torch", None)

    def test_loading_says_what_to_install_or_to_copy(self) -> None:
        with pytest.raises(ModuleNotFoundError, match=r"pip install '.\[clip\]'.*clip-b16.*ovs export"):
            open_model(ModelFile(model="clip-b16"))

    def test_exporting_says_what_to_install(self, tmp_path: Path) -> None:
        result = CliRunner().invoke(
            app, ["export", "clip-vit-b16", "-o", str(tmp_path)], env={"COLUMNS": "300"}
        )
        assert result.exit_code == 2 and "pip install '.[clip]'" in result.output

    def test_models_are_listed_all_the_same(self) -> None:
        result = CliRunner().invoke(app, ["models", "--time", "3"], env={"COLUMNS": "200"})
        assert result.exit_code == 0, result.output
        assert all(path.stem in result.output for path in MODEL_FILES.glob("*.yaml"))
        assert "the extra 'clip'" in result.output
