"""Checkpoints: read without running code, mapped strictly, and refused with all that does not fit."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="checkpoints need torch: pip install '.[clip]'")

from ovs_ros.encoders.checkpoint_keys import (  # noqa: E402
    Checkpoint,
    Rule,
    map_keys,
    read_checkpoint,
)

RULES = (
    Rule(r"net\.(.+)\.q_weight", r"\1.qkv", (0, 3)),
    Rule(r"net\.(.+)\.k_weight", r"\1.qkv", (1, 3)),
    Rule(r"net\.(.+)\.v_weight", r"\1.qkv", (2, 3)),
    Rule(r"net\.(.+)", r"\1"),
)


def checkpoint(**tensors: torch.Tensor) -> Checkpoint:
    return Checkpoint(Path("model.pth"), "0", {key.replace("_dot_", "."): t for key, t in tensors.items()})


def whole() -> dict[str, torch.Tensor]:
    return {
        "net_dot_a_dot_k_weight": torch.full((2, 3), 1.0),
        "net_dot_a_dot_q_weight": torch.full((2, 3), 0.0),
        "net_dot_a_dot_v_weight": torch.full((2, 3), 2.0),
        "net_dot_b": torch.zeros(4, dtype=torch.float16),
        "net_dot_scale": torch.tensor(3.0),
    }


EXPECTED = {"a.qkv": torch.empty(6, 3, device="meta"), "b": torch.zeros(4), "scale": torch.zeros(())}


def test_blocks_are_joined_in_their_order_and_dtypes_are_the_module_s() -> None:
    state = map_keys(checkpoint(**whole()), EXPECTED, RULES)
    assert list(state) == list(EXPECTED)
    assert state["a.qkv"][:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert state["b"].dtype == torch.float32
    assert state["scale"] == 3


def test_one_error_names_missing_foreign_and_wrong_keys() -> None:
    tensors = whole()
    del tensors["net_dot_a_dot_k_weight"], tensors["net_dot_scale"]
    tensors |= {
        "net_dot_b": torch.zeros(5),
        "net_dot_other": torch.zeros(1),
        "head_dot_x": torch.zeros(1),
        "ema_dot_x": torch.zeros(1),
    }
    with pytest.raises(ValueError) as error:
        map_keys(checkpoint(**tensors), EXPECTED, RULES, [r"ema\..*"])
    message = str(error.value)
    assert "missing: a.qkv (blocks [1] of 3), scale;" in message
    assert "foreign: net.other, head.x;" in message
    assert "of another shape: b (expected (4,), got (5,))" in message
    assert "ema" not in message


def test_two_tensors_for_one_place_are_refused() -> None:
    tensors = whole() | {"again": torch.zeros(4)}
    with pytest.raises(ValueError, match=r"again \(a second tensor for b\)"):
        map_keys(checkpoint(**tensors), EXPECTED, (Rule("again", "b"), *RULES))


def test_long_lists_are_cut() -> None:
    expected = {f"k{i}": torch.zeros(1) for i in range(30)}
    with pytest.raises(ValueError, match=r"k11 and 18 more"):
        map_keys(checkpoint(x=torch.zeros(1)), expected, ())


@pytest.mark.parametrize("wrapper", ["model", "state_dict", None])
@pytest.mark.parametrize("legacy", [False, True])
def test_files_of_torch_save_are_read(tmp_path: Path, wrapper: str | None, legacy: bool) -> None:
    path = tmp_path / "model.pth"
    tensors = {"a": torch.arange(3.0)}
    stored = {wrapper: tensors, "iteration": 7, "optimizer": {"lr": 0.1}} if wrapper else tensors
    torch.save(stored, path, _use_new_zipfile_serialization=not legacy)
    read = read_checkpoint(path)
    assert list(read.tensors) == ["a"] and read.tensors["a"].tolist() == [0, 1, 2]
    assert read.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_safetensors_are_read(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    path = tmp_path / "model.safetensors"
    safetensors.save_file({"a": torch.ones(2)}, path)
    assert read_checkpoint(path).tensors["a"].tolist() == [1, 1]
    path.write_bytes(b"broken")
    with pytest.raises(ValueError, match="broken"):
        read_checkpoint(path)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return Path.mkdir, (self.folder,)


def test_code_in_a_file_is_refused_and_never_run(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    for name, write in (("a.pth", torch.save), ("a.pkl", lambda x, p: p.write_bytes(pickle.dumps(x)))):
        write({"model": {"a": Trap(sprung)}}, tmp_path / name)
        with pytest.raises(ValueError, match="refused.*safetensors"):
            read_checkpoint(tmp_path / name)
    assert not sprung.exists()


def test_arrays_of_numpy_are_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"model": {"a": np.zeros(3)}}))
    with pytest.raises(ValueError, match=r"\.pkl of detectron2.*save_file"):
        read_checkpoint(path)
    torch.save({"model": {"a": torch.zeros(1)}, "loss": np.float64(1)}, path)
    with pytest.raises(ValueError, match=r"got numpy\S+ beside them"):
        read_checkpoint(path)


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
@pytest.mark.parametrize(
    "content", ["<!DOCTYPE html><html></html>", "version https://git-lfs.github.com/spec/v1\noid sha256:1"]
)
def test_what_a_download_leaves_in_place_of_a_file_is_called_that(
    tmp_path: Path, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match="a web page or a pointer of Git LFS in their place; fetch"):
        read_checkpoint(tmp_path / name)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no file"):
        read_checkpoint(tmp_path / "none.pth")
    path = tmp_path / "model.pth"
    torch.save({"a": torch.zeros(100)}, path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="broken"):
        read_checkpoint(path)
    torch.save([torch.zeros(1)], path)
    with pytest.raises(ValueError, match="tensors by name.*list"):
        read_checkpoint(path)
    torch.save({"a": torch.zeros(1), "b": 3}, path)
    with pytest.raises(ValueError, match="something else as b"):
        read_checkpoint(path)
