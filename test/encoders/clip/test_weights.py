"""Weights are found on this machine or the error says how to get them; open_clip loads them strictly."""

import json
import logging
import socket
from pathlib import Path

import pytest

from ovs_ros.encoders.model_file import ModelFile
from ovs_ros.runtime.files import file_digest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[clip]')")

from clip_models import open_clip_or_skip, put_in_hub, register_small  # noqa: E402

open_clip = open_clip_or_skip()

from safetensors.torch import save_file  # noqa: E402

from ovs_ros.encoders.clip.open_clip_models import build_clip, load_open_clip  # noqa: E402
from ovs_ros.encoders.clip.weights import ModelFiles, find_files, hub_files, load_weights  # noqa: E402

LAION = "laion/CLIP-ViT-B-16-laion2B-s34B-b88K"
OPENAI = "timm/vit_base_patch16_clip_224.openai"
TENSORS, PICKLED = "open_clip_model.safetensors", "open_clip_pytorch_model.bin"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    return register_small(tmp_path_factory.mktemp("configurations"), "vit")


@pytest.fixture
def clip(small: str) -> torch.nn.Module:
    return build_clip(small)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for a host or a connection fails the test."""

    def refuse(*args: object, **options: object) -> None:
        pytest.fail(f"asked for the network: {args}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"weights")
    return path


@pytest.mark.usefixtures("no_network")
def test_a_missing_tag_is_one_error_with_the_commands(tmp_path: Path) -> None:
    mine = str(tmp_path / "mine")
    with pytest.raises(FileNotFoundError) as error:
        load_open_clip(ModelFile(model="ViT-B-16", weights="laion2b_s34b_b88k", cache=mine))
    said = str(error.value)
    assert "expected the files of ViT-B-16 (laion2b_s34b_b88k)" in said
    assert f"hf download {LAION} {TENSORS} --cache-dir {mine}" in said
    assert f"hf download {LAION} {PICKLED} --cache-dir {mine}" in said
    assert "cache:" in said


@pytest.mark.usefixtures("no_network")
def test_a_missing_siglip_lists_weights_and_tokenizer(tmp_path: Path) -> None:
    asked = ("ViT-L-16-SigLIP-256", "webli", str(tmp_path))
    with pytest.raises(FileNotFoundError) as error:
        find_files(*asked)
    assert f"hf download timm/ViT-L-16-SigLIP-256 {TENSORS}" in str(error.value)
    assert "hf download timm/ViT-B-16-SigLIP tokenizer.json tokenizer_config.json" in str(error.value)
    put_in_hub(tmp_path, "timm/ViT-L-16-SigLIP-256", TENSORS)
    with pytest.raises(FileNotFoundError) as error:
        find_files(*asked)
    assert TENSORS not in str(error.value)
    folder = put_in_hub(tmp_path, "timm/ViT-B-16-SigLIP", "tokenizer.json")
    files = find_files(*asked)
    assert files.tokenizer == folder
    assert files.trained["mean"] == files.trained["std"] == (0.5, 0.5, 0.5)


def test_tensors_that_run_nothing_are_preferred(tmp_path: Path) -> None:
    for name in (PICKLED, TENSORS):
        file = put_in_hub(tmp_path, LAION, name) / name
        assert find_files("ViT-B-16", "laion2b_s34b_b88k", str(tmp_path)).weights == file


def test_without_cache_the_usual_one_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    folder = put_in_hub(tmp_path, LAION, TENSORS)
    assert find_files("ViT-B-16", "laion2b_s34b_b88k").weights == folder / TENSORS


def test_quick_gelu_follows_the_weights(tmp_path: Path) -> None:
    """OpenAI's, DFN's and MetaCLIP's weights were trained with it, LAION's without."""
    put_in_hub(tmp_path, OPENAI, TENSORS)
    put_in_hub(tmp_path, LAION, TENSORS)
    put_in_hub(tmp_path, "apple/DFN2B-CLIP-ViT-B-16", PICKLED)
    for tag, quick in (("openai", True), ("laion2b_s34b_b88k", False), ("dfn2b", True)):
        assert find_files("ViT-B-16", tag, str(tmp_path)).trained["quick_gelu"] is quick
    assert find_files("ViT-B-16-quickgelu", "openai", str(tmp_path)).trained["quick_gelu"]
    with pytest.raises(ValueError, match=r"tags of ViT-B-16-quickgelu \(openai, dfn2b"):
        find_files("ViT-B-16-quickgelu", "laion2b_s34b_b88k", str(tmp_path))


@pytest.mark.parametrize("quick", [True, False])
def test_the_network_is_built_as_the_weights_were_trained(small: str, quick: bool) -> None:
    half = (0.5, 0.5, 0.5)
    clip = build_clip(small, {"quick_gelu": quick, "mean": half})
    for tower in (clip.visual, clip):
        used = tower.transformer.resblocks[0].mlp.gelu
        assert isinstance(used, open_clip.transformer.QuickGELU) is quick
    assert clip.visual.preprocess_cfg["mean"] == half
    assert clip.visual.preprocess_cfg["std"] == open_clip.OPENAI_DATASET_STD


def test_settings_of_a_file_come_from_the_configuration_beside_it(tmp_path: Path) -> None:
    file = put(tmp_path / "mine.safetensors")
    said = {"model_cfg": {"quick_gelu": True}, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(said))
    trained = find_files("ViT-B-16", str(file)).trained
    assert trained["quick_gelu"] is True
    assert trained["mean"] == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    ("model", "warned"),
    [
        ("ViT-B-16", True),
        ("ViT-L-14-336", True),  # All its tags are OpenAI's.
        ("ViT-L-14", True),
        ("ViT-L-14-quickgelu", False),
        ("ViT-B-32-256", False),
    ],
)
def test_a_file_alone_is_warned_of_where_any_weights_of_its_architecture_differ(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, model: str, warned: bool
) -> None:
    with caplog.at_level(logging.WARNING):
        find_files(model, str(put(tmp_path / "mine.safetensors")))
    assert ("is loaded without QuickGELU" in caplog.text) is warned


def test_a_file_alone_has_the_settings_that_all_tags_share(tmp_path: Path) -> None:
    file = put(tmp_path / "mine.safetensors")
    assert find_files("MobileCLIP-S1", str(file)).trained["mean"] == (0.0, 0.0, 0.0)


def test_names_that_nothing_has_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got 'ViT-Z-16'; similar names are .*ViT-.-16"):
        find_files("ViT-Z-16", "openai")
    with pytest.raises(ValueError, match="tags of ViT-B-16 .*laion2b_s34b_b88k.*got 'laion3b'"):
        find_files("ViT-B-16", "laion3b")
    with pytest.raises(ValueError, match="got ''"):
        find_files("ViT-B-16", "")
    for path in ("nothing.safetensors", "some/where"):
        with pytest.raises(FileNotFoundError, match="but there is no such file"):
            find_files("ViT-B-16", str(tmp_path / path))


@pytest.mark.parametrize("name", [TENSORS, "any.pt", PICKLED])
def test_files_and_folders_of_every_format_fill_the_model(
    small: str, clip: torch.nn.Module, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    if name.endswith(".safetensors"):
        save_file(clip.state_dict(), folder / name)
    else:
        torch.save(clip.state_dict(), folder / name)
    for given in (folder / name, folder):
        model = load_open_clip(ModelFile(model=small, weights=str(given)))
        assert file_digest(folder / name)[:12] in model.name
        for key, tensor in model.clip.state_dict().items():
            torch.testing.assert_close(tensor, clip.state_dict()[key], msg=key)


def test_a_folder_with_two_files_is_ambiguous(tmp_path: Path) -> None:
    put(tmp_path / "a.pt")
    put(tmp_path / "b.pt")
    with pytest.raises(FileNotFoundError, match=r"got a\.pt, b\.pt; name the file"):
        find_files("ViT-B-16", str(tmp_path))


def load(clip: torch.nn.Module, state: object, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "weights.pt")
    load_weights(clip, ModelFiles(tmp_path / "weights.pt"))


def test_checkpoints_of_training_and_in_half_precision_are_taken(
    clip: torch.nn.Module, tmp_path: Path
) -> None:
    wanted = {key: torch.randn_like(tensor).half() for key, tensor in clip.state_dict().items()}
    load(clip, {"epoch": 3, "state_dict": {f"module.{key}": one for key, one in wanted.items()}}, tmp_path)
    for key, tensor in clip.state_dict().items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, wanted[key].float(), msg=key)


def test_position_tables_of_another_size_are_resampled(clip: torch.nn.Module, tmp_path: Path) -> None:
    state = clip.state_dict()
    width = state["visual.positional_embedding"].shape[1]
    state["visual.positional_embedding"] = torch.full((1 + 7 * 7, width), 0.25)
    load(clip, state, tmp_path)
    torch.testing.assert_close(clip.visual.positional_embedding, torch.full((1 + 4 * 4, width), 0.25))


def test_weights_of_another_architecture_are_refused_by_their_keys(
    clip: torch.nn.Module, tmp_path: Path
) -> None:
    state = clip.state_dict()
    del state["visual.proj"]
    state["visual.head.weight"] = torch.zeros(2)
    with pytest.raises(ValueError, match=r"(?s)weights\.pt, got others.*visual\.proj.*visual\.head\.weight"):
        load(clip, state, tmp_path)


@pytest.mark.parametrize("content", [b"", b"<!doctype html>", b"version https://git-lfs.github.com/spec/v1"])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_files_that_hold_no_tensors_are_refused(
    clip: torch.nn.Module, tmp_path: Path, suffix: str, content: bytes
) -> None:
    path = tmp_path / f"weights.{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"expected .* in .*weights.{suffix}"):
        load_weights(clip, ModelFiles(path))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_program_is_refused_with_the_way_to_the_tensors(clip: torch.nn.Module, tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "ViT-B-16.pt"))
    with pytest.raises(ValueError, match="TorchScript.*write a tag such as 'openai'"):
        load_weights(clip, ModelFiles(tmp_path / "ViT-B-16.pt"))


def test_code_in_a_file_is_never_run(clip: torch.nn.Module, tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    with pytest.raises(ValueError, match="could run code"):
        load(clip, {**clip.state_dict(), "more": Code()}, tmp_path)
    assert not (tmp_path / "ran").exists()


def test_every_tag_of_open_clip_names_a_repository() -> None:
    for model, tag in open_clip.list_pretrained():
        repository, names = hub_files(open_clip.get_pretrained_cfg(model, tag))
        assert repository.count("/") == 1, (model, tag)
        assert names[0].endswith(".safetensors"), (model, tag)
