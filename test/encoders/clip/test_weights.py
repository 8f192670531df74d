"""Weights are found on this machine or the error says how to fetch them; they fill a model strictly."""

import json
import logging
from hashlib import sha256
from pathlib import Path

import pytest

from ovs_ros.encoders.model_file import ModelFile

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[clip]')")

from clip_models import open_clip_or_skip, register_small  # noqa: E402

open_clip = open_clip_or_skip()

from safetensors.torch import save_file  # noqa: E402

from ovs_ros.encoders.clip import weights as weights_module  # noqa: E402
from ovs_ros.encoders.clip.open_clip_models import load_open_clip, open_clip_model  # noqa: E402
from ovs_ros.encoders.clip.weights import ModelFiles, find_files, load_weights  # noqa: E402

LAION = "CLIP-ViT-B-16-laion2B-s34B-b88K"
OPENAI = "vit_base_patch16_clip_224.openai"


@pytest.fixture(autouse=True)
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without downloads, where the usual places are looked for."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home" / ".cache"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    return register_small(tmp_path_factory.mktemp("configurations"), "vit")


@pytest.fixture
def clip(small: str, tmp_path: Path) -> torch.nn.Module:
    half = (0.5, 0.5, 0.5)
    return open_clip_model(small, ModelFiles(tmp_path, "", "", None, half, half, None))[0]


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"weights")
    return path


def put_in_hub(hub: Path, repository: str, *names: str) -> Path:
    """The layout of huggingface_hub: a snapshot of one commit, which the reference 'main' names."""
    folder = hub / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0123abc")
    for name in names:
        put(folder / "snapshots" / "0123abc" / name)
    return folder / "snapshots" / "0123abc"


def test_a_missing_tag_is_one_error_with_the_commands(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        find_files("ViT-B-16", "laion2b_s34b_b88k", str(tmp_path / "mine"))
    said = str(error.value)
    assert (
        f"hf download laion/{LAION} open_clip_model.safetensors open_clip_config.json --local-dir {LAION}"
    ) in said
    assert "open_clip_pytorch_model.bin" in said
    assert str(tmp_path / "mine") in said
    assert str(tmp_path / "home/.cache/huggingface/hub") in said
    assert "cache:" in said


def test_a_missing_siglip_lists_weights_and_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        find_files("ViT-L-16-SigLIP-256", "webli")
    said = str(error.value)
    assert "hf download timm/ViT-L-16-SigLIP-256 open_clip_model.safetensors" in said
    assert "hf download timm/ViT-B-16-SigLIP tokenizer.json tokenizer_config.json" in said
    put(tmp_path / "ViT-L-16-SigLIP-256" / "open_clip_model.safetensors")
    with pytest.raises(FileNotFoundError) as error:
        find_files("ViT-L-16-SigLIP-256", "webli", str(tmp_path))
    assert "open_clip_model" not in str(error.value)
    put(tmp_path / "ViT-B-16-SigLIP" / "tokenizer.json")
    files = find_files("ViT-L-16-SigLIP-256", "webli", str(tmp_path))
    assert files.tokenizer == tmp_path / "ViT-B-16-SigLIP"
    assert files.mean == files.std == (0.5, 0.5, 0.5)


def test_what_the_command_fetches_is_found(tmp_path: Path) -> None:
    """With --local-dir as the error says, in a folder that `cache` names."""
    for folder in (f"{LAION}", f"laion/{LAION}"):
        cache = tmp_path / folder.replace("/", "-")
        file = put(cache / folder / "open_clip_model.safetensors")
        assert find_files("ViT-B-16", "laion2b_s34b_b88k", str(cache)).weights == file


def test_tensors_that_run_nothing_are_preferred(tmp_path: Path) -> None:
    put(tmp_path / LAION / "open_clip_pytorch_model.bin")
    assert find_files("ViT-B-16", "laion2b_s34b_b88k", str(tmp_path)).weights.suffix == ".bin"
    put(tmp_path / LAION / "open_clip_model.safetensors")
    assert find_files("ViT-B-16", "laion2b_s34b_b88k", str(tmp_path)).weights.suffix == ".safetensors"


def test_the_hubs_own_cache_is_found_where_it_may_lie(
    tmp_path: Path, empty_caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("ViT-B-16", "laion2b_s34b_b88k")
    repository, name = f"laion/{LAION}", "open_clip_model.safetensors"
    usual = put_in_hub(empty_caches / "huggingface" / "hub", repository, name)
    assert find_files(*asked).weights == usual / name
    by_home = put_in_hub(tmp_path / "hf" / "hub", repository, name)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    assert find_files(*asked).weights == by_home / name
    by_cache = put_in_hub(tmp_path / "hub", repository, name)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert find_files(*asked).weights == by_cache / name
    given = put_in_hub(tmp_path / "given", repository, name)
    assert find_files(*asked, cache=str(tmp_path / "given")).weights == given / name


def test_what_open_clip_or_torch_downloaded_is_found_and_checked(
    empty_caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "vit_b_16-laion400m_e32-55e67d44.pt"
    file = put(empty_caches / "clip" / name)
    files = find_files("ViT-B-16", "laion400m_e32")
    assert files.weights == file
    assert files.sha256 == "55e67d44"
    file.unlink()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    file = put(tmp_path / "torch" / "hub" / "checkpoints" / name)
    assert find_files("ViT-B-16", "laion400m_e32").weights == file


def test_quick_gelu_follows_the_weights(tmp_path: Path) -> None:
    """OpenAI's, DFN's and MetaCLIP's weights were trained with it, LAION's without."""
    put(tmp_path / OPENAI / "open_clip_model.safetensors")
    put(tmp_path / LAION / "open_clip_model.safetensors")
    put(tmp_path / "DFN2B-CLIP-ViT-B-16" / "open_clip_pytorch_model.bin")
    for tag, quick in (("openai", True), ("laion2b_s34b_b88k", False), ("dfn2b", True)):
        assert find_files("ViT-B-16", tag, str(tmp_path)).quick_gelu is quick
    assert find_files("ViT-B-16-quickgelu", "openai", str(tmp_path)).quick_gelu
    with pytest.raises(ValueError, match=r"tags of ViT-B-16-quickgelu \(openai, dfn2b"):
        find_files("ViT-B-16-quickgelu", "laion2b_s34b_b88k", str(tmp_path))


@pytest.mark.parametrize("quick", [True, False])
def test_the_network_gets_the_activation_that_the_weights_ask_for(
    small: str, tmp_path: Path, quick: bool
) -> None:
    half = (0.5, 0.5, 0.5)
    clip, _ = open_clip_model(small, ModelFiles(tmp_path, "", "", quick, half, half, None))
    for tower in (clip.visual, clip):
        used = tower.transformer.resblocks[0].mlp.gelu
        assert isinstance(used, open_clip.transformer.QuickGELU) is quick
    assert clip.visual.preprocess_cfg["mean"] == half


def test_a_file_alone_is_ambiguous_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = put(tmp_path / "mine.safetensors")
    with caplog.at_level(logging.WARNING):
        files = find_files("ViT-B-16", str(file))
    assert "taken without QuickGELU" in caplog.text
    assert files.quick_gelu is None
    caplog.clear()
    said = {"model_cfg": {"quick_gelu": True}, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(said))
    files = find_files("ViT-B-16", str(file))
    assert not caplog.text
    assert files.quick_gelu is True
    assert files.mean == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("ViT-L-14-336", ["taken without QuickGELU"]),  # All its tags are OpenAI's.
        ("ViT-L-14", ["taken without QuickGELU", "normalised as OpenAI's"]),
        ("ViT-L-14-quickgelu", []),
        ("ViT-B-32-256", []),
    ],
)
def test_a_file_alone_is_warned_of_where_any_weights_of_its_architecture_differ(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, model: str, said: list[str]
) -> None:
    with caplog.at_level(logging.WARNING):
        find_files(model, str(put(tmp_path / "mine.safetensors")))
    assert len(caplog.messages) == len(said)
    assert all(text in message for text, message in zip(said, sorted(caplog.messages)[::-1], strict=True))


def test_a_file_is_normalised_as_all_tags_of_its_architecture_are(tmp_path: Path) -> None:
    file = put(tmp_path / "mine.safetensors")
    assert find_files("MobileCLIP-S1", str(file)).mean == (0.0, 0.0, 0.0)
    assert find_files("ViT-B-16", str(file)).mean == open_clip.OPENAI_DATASET_MEAN


def test_names_that_nothing_has_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got 'ViT-Z-16'; near it are .*ViT-.-16"):
        find_files("ViT-Z-16", "openai")
    with pytest.raises(ValueError, match="tags of ViT-B-16 .*laion2b_s34b_b88k.*got 'laion3b'"):
        find_files("ViT-B-16", "laion3b")
    with pytest.raises(ValueError, match="got ''"):
        find_files("ViT-B-16", "")
    for path in ("nothing.safetensors", "some/where"):
        with pytest.raises(FileNotFoundError, match="there is no such file"):
            find_files("ViT-B-16", str(tmp_path / path))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_program_is_refused_with_the_way_to_the_tensors(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "ViT-B-16.pt"))
    with pytest.raises(ValueError, match=f"TorchScript.*\n *hf download timm/{OPENAI} open_clip_model.safe"):
        find_files("ViT-B-16", str(tmp_path / "ViT-B-16.pt"))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_program_that_openai_s_package_downloaded_does_not_serve(empty_caches: Path) -> None:
    put(empty_caches / "clip" / "ViT-B-16.pt")
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(empty_caches / "clip" / "ViT-B-16.pt"))
    with pytest.raises(FileNotFoundError) as error:
        find_files("ViT-B-16", "openai")
    assert f"hf download timm/{OPENAI} open_clip_model.safetensors" in str(error.value)
    assert f"{empty_caches / 'clip' / 'ViT-B-16.pt'} is a TorchScript archive" in str(error.value)


@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "any.pt", "open_clip_pytorch_model.bin"])
def test_files_and_folders_of_every_format_fill_the_model(
    small: str, clip: torch.nn.Module, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    if name.endswith(".safetensors"):
        save_file(clip.state_dict(), folder / name)
    else:
        torch.save(clip.state_dict(), folder / name)
    digest = sha256((folder / name).read_bytes()).hexdigest()[:12]
    for given in (folder / name, folder):
        model = load_open_clip(ModelFile(model=small, weights=str(given)))
        assert digest in model.name
        for key, tensor in model.clip.state_dict().items():
            torch.testing.assert_close(tensor, clip.state_dict()[key], msg=key)


def test_a_folder_with_two_files_is_ambiguous(tmp_path: Path) -> None:
    put(tmp_path / "a.pt")
    put(tmp_path / "b.pt")
    with pytest.raises(FileNotFoundError, match=r"got a\.pt, b\.pt; name the file"):
        find_files("ViT-B-16", str(tmp_path))


def load(clip: torch.nn.Module, state: dict[str, object], tmp_path: Path, sha: str = "") -> str:
    torch.save(state, tmp_path / "weights.pt")
    half = (0.5, 0.5, 0.5)
    return load_weights(clip, ModelFiles(tmp_path / "weights.pt", "", sha, None, half, half, None))


def test_checkpoints_of_training_and_in_half_precision_are_taken(
    clip: torch.nn.Module, tmp_path: Path
) -> None:
    wanted = {key: torch.randn_like(tensor).half() for key, tensor in clip.state_dict().items()}
    trained = {"epoch": 3, "state_dict": {f"module.{key}": tensor for key, tensor in wanted.items()}}
    load(clip, trained, tmp_path)
    for key, tensor in clip.state_dict().items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, wanted[key].float(), msg=key)


def test_what_openai_keeps_beside_its_tensors_is_left(clip: torch.nn.Module, tmp_path: Path) -> None:
    beside = {name: torch.tensor(1) for name in ("input_resolution", "context_length", "vocab_size")}
    load(clip, {**clip.state_dict(), **beside}, tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_position_tables_of_another_size_are_resampled(
    clip: torch.nn.Module, tmp_path: Path, dtype: torch.dtype
) -> None:
    state = {key: tensor.to(dtype) for key, tensor in clip.state_dict().items()}
    width = state["visual.positional_embedding"].shape[1]
    state["visual.positional_embedding"] = torch.full((1 + 7 * 7, width), 0.25, dtype=dtype)
    load(clip, state, tmp_path)
    torch.testing.assert_close(clip.visual.positional_embedding, torch.full((1 + 4 * 4, width), 0.25))


def test_the_layout_of_transformers_is_refused_by_its_name(clip: torch.nn.Module, tmp_path: Path) -> None:
    state = {"logit_scale": torch.tensor(1.0), "text_model.final_layer_norm.weight": torch.zeros(3)}
    with pytest.raises(ValueError, match="open_clip's keys .* package transformers; name a tag"):
        load(clip, state, tmp_path)


def test_all_that_does_not_fit_is_one_error(clip: torch.nn.Module, tmp_path: Path) -> None:
    state = clip.state_dict()
    del state["visual.proj"]
    state["visual.head.weight"] = torch.zeros(2)
    state["text_projection"] = torch.zeros(3, 5)
    before = clip.visual.conv1.weight.clone()
    with pytest.raises(ValueError) as error:
        load(clip, state, tmp_path)
    said = str(error.value)
    assert "missing: visual.proj" in said
    assert "foreign: visual.head.weight" in said
    assert "text_projection (expected (64, 64), got (3, 5))" in said
    torch.testing.assert_close(clip.visual.conv1.weight, before)


def test_a_digest_that_is_not_the_published_one_is_refused(clip: torch.nn.Module, tmp_path: Path) -> None:
    digest = load(clip, clip.state_dict(), tmp_path)
    assert load(clip, clip.state_dict(), tmp_path, sha=digest[:8]) == digest
    with pytest.raises(ValueError, match="sha256 of .* to begin with 00000000.*fetch it again"):
        load(clip, clip.state_dict(), tmp_path, sha="00000000")


def test_code_in_a_file_is_never_run(clip: torch.nn.Module, tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    with pytest.raises(ValueError, match="could run code"):
        load(clip, {**clip.state_dict(), "more": Code()}, tmp_path)
    assert not (tmp_path / "ran").exists()


def test_every_tag_of_open_clip_has_a_command_or_a_file(tmp_path: Path) -> None:
    for model, tag in open_clip.list_pretrained():
        entry = open_clip.get_pretrained_cfg(model, tag)
        repository, names = weights_module._in_hub(entry)
        assert repository.count("/") == 1, (model, tag)
        assert names[0].endswith(".safetensors"), (model, tag)
