"""From an official checkpoint to the state dict of a module that names its parts otherwise, strictly."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from ovs_ros.runtime.files import file_digest

_ZIP = b"PK\x03\x04"
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How files of torch.save begin: since torch 1.6, and before."""
_STAND_INS = (b"<!doctype", b"<html", b"version https://git-lfs")
"""How files begin that downloads leave in the place of weights."""
_WRAPPERS = ("state_dict_ema", "model", "state_dict", "model_state_dict")
"""Under what trainers (timm and RADIO, detectron2, Lightning, CLIP-DINOiser) put the weights beside the
optimiser's state; an average over the training, which timm names so, is what its users take."""
_SHOWN = 12
"""How many keys of a kind an error names."""


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file.

    Attributes:
        path: of the file.
        sha256: of the file's bytes, in hexadecimal; its first digits belong in the model's name.
        tensors: by the checkpoint's own keys, on the CPU.
    """

    path: Path
    sha256: str
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class Rule:
    """Where a tensor of a checkpoint goes.

    Attributes:
        pattern: a regular expression that matches the whole key of the checkpoint.
        target: the module's key, with the pattern's groups as '\\1', '\\2', …
        block: (i, n): the tensor is the i-th of n blocks whose rows, one below the other, are the module's
            tensor, as separate q, k and v projections are of a joint one. (0, 1): it is the whole.
    """

    pattern: str
    target: str
    block: tuple[int, int] = (0, 1)


def load_safely(path: Path) -> Any:
    """What a .safetensors file or a file of torch.save holds; no code in it is ever run.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds objects of Python, is broken, or is of another kind.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"expected a checkpoint at {path}, got no file; check the model file's weights"
        )
    with path.open("rb") as file:
        start = file.read(32)
    if start.lower().startswith(_STAND_INS):
        raise ValueError(
            f"expected tensors in {path}, got a web page or a pointer of Git LFS in their place; fetch "
            "the file itself, with a browser or `git lfs pull`"
        )
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if not start.startswith((_ZIP, _LEGACY)):
        raise ValueError(
            f"expected a file of torch.save or .safetensors at {path}, got another kind; a pickle (.pkl of "
            "detectron2 with NumPy arrays) can run code when it is read and is refused: on a machine where "
            "you trust it, save its arrays with safetensors.torch.save_file and give that file"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = found.group(1) if found else "objects of Python"
        raise ValueError(
            f"expected nothing but tensors in {path}, got {what} beside them, which could run code and is "
            "refused: on a machine where you trust the file, save its weights alone with "
            "safetensors.torch.save_file and give that file"
        ) from error
    except (RuntimeError, EOFError) as error:
        raise ValueError(f"expected a file of torch.save at {path}, got a broken one: {error}") from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"expected a safetensors file at {path}, got a broken one: {error}") from error


def read_checkpoint(path: Path) -> Checkpoint:
    """The weights in a file, see `load_safely`.

    Weights under 'state_dict_ema', 'model', 'state_dict' or 'model_state_dict' are taken from the first of
    these; what lies beside them is left.

    Raises:
        FileNotFoundError, ValueError: as `load_safely`; or the file holds something else than tensors.
    """
    return as_checkpoint(path, load_safely(path))


def as_checkpoint(path: Path, loaded: Any) -> Checkpoint:
    """The weights in what `load_safely` read from a file; see `read_checkpoint`."""
    for wrapper in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
            break
    if not isinstance(loaded, Mapping) or not loaded:
        raise ValueError(f"expected tensors by name in {path}, got {type(loaded).__name__}")
    if others := [str(key) for key, value in loaded.items() if not isinstance(value, Tensor)]:
        raise ValueError(f"expected nothing but tensors in {path}, got something else as {_listed(others)}")
    return Checkpoint(path, file_digest(path), dict(loaded))


def map_keys(
    checkpoint: Checkpoint,
    expected: Mapping[str, Tensor],
    rules: Sequence[Rule],
    ignored: Sequence[str] = (),
) -> dict[str, Tensor]:
    """Rename a checkpoint's tensors for a module, each exactly once, or say all that does not fit.

    Args:
        checkpoint: the tensors.
        expected: the module's `state_dict()`, which may lie on the device 'meta'; its values are not read.
        rules: the first whose pattern matches a key says where its tensor goes.
        ignored: regular expressions of whole keys that inference does not need.

    Returns:
        a state dict that has exactly the keys of `expected`, in their dtypes.

    Raises:
        ValueError: a key of the module gets no tensor, a key of the checkpoint has no place, or a shape is
            another; one message names them all.
    """
    blocks: dict[str, dict[int, Tensor]] = {}
    counts: dict[str, int] = {}
    foreign, wrong = [], []
    for key, tensor in checkpoint.tensors.items():
        if any(re.fullmatch(pattern, key) for pattern in ignored):
            continue
        target, (index, count) = place(key, rules)
        if target not in expected:
            foreign.append(key)
        elif index in blocks.setdefault(target, {}):
            wrong.append(f"{key} (a second tensor for {target})")
        else:
            blocks[target][index], counts[target] = tensor, count
    missing, state = [], {}
    for target, wanted in expected.items():
        parts = blocks.get(target, {})
        lacking = [index for index in range(counts.get(target, 1)) if index not in parts]
        if lacking:
            of = f" (blocks {lacking} of {counts[target]})" if target in counts else ""
            missing.append(target + of)
            continue
        ordered = [parts[index] for index in sorted(parts)]
        shapes = [part.shape for part in ordered]
        whole = shapes[0]
        if len(shapes) > 1:
            whole = torch.Size([sum(shape[:1].numel() for shape in shapes), *whole[1:]])
        if whole != wanted.shape or any(shape[1:] != whole[1:] for shape in shapes):
            got = " + ".join(str(tuple(shape)) for shape in shapes)
            wrong.append(f"{target} (expected {tuple(wanted.shape)}, got {got})")
        else:
            state[target] = (torch.cat(ordered) if len(ordered) > 1 else ordered[0]).to(wanted.dtype)
    report = [
        f"{what}: {_listed(keys)}"
        for what, keys in (("missing", missing), ("foreign", foreign), ("of another shape", wrong))
        if keys
    ]
    if report:
        raise ValueError(
            f"expected the weights of this model in {checkpoint.path}, got others; {'; '.join(report)}. "
            "Check that model and weights in the model file belong together"
        )
    return state


def place(key: str, rules: Iterable[Rule]) -> tuple[str, tuple[int, int]]:
    """Where the first rule that matches sends a key, and as which block; '' where none does."""
    for rule in rules:
        if match := re.fullmatch(rule.pattern, key):
            return match.expand(rule.target), rule.block
    return "", (0, 1)


def _listed(keys: Sequence[str]) -> str:
    """The first keys by name and the others by number."""
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more
