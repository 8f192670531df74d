"""Find the files of an open_clip model on this machine; an error says how to get missing ones."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from ovs_ros.encoders.clip.imports import import_open_clip

logger = logging.getLogger(__name__)

SAFETENSORS, PICKLED = "open_clip_model.safetensors", "open_clip_pytorch_model.bin"
"""Names of the weights in the hub's repositories of open_clip's models."""
CONFIGURATION = "open_clip_config.json"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model of open_clip, and how its weights were trained.

    Attributes:
        weights: a file of tensors.
        label: the tag, or the file's name.
        trained: 'mean' and 'std' of RGB in [0, 1], and 'quick_gelu', where they are known.
        tokenizer: a folder with tokenizer.json, for models that do not use CLIP's tokenizer.
    """

    weights: Path = Path()
    label: str = ""
    trained: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Path | None = None


def architecture(model: str) -> dict[str, Any]:
    """open_clip's configuration of an architecture.

    Raises:
        ValueError: open_clip has no such architecture.
    """
    open_clip = import_open_clip()
    config = open_clip.get_model_config(model)
    if config is None:
        near = get_close_matches(model, open_clip.list_models(), n=5, cutoff=0.4)
        raise ValueError(
            f"expected model to be an architecture of open_clip, got {model!r}; similar names are"
            f" {', '.join(near)}, and open_clip.list_models() names them all"
        )
    return config


def find_files(model: str, weights: str, cache: str = "") -> ModelFiles:
    """Find weights and tokenizer on this machine.

    Args:
        model: an architecture that open_clip knows.
        weights: a tag such as 'openai', a file of tensors, or a folder with one.
        cache: a cache folder of huggingface_hub, for what tags name; '' for the usual one (HF_HUB_CACHE).

    Raises:
        FileNotFoundError: something is missing; the message has the commands that fetch it.
        ValueError: open_clip knows no such architecture or tag.
    """
    open_clip = import_open_clip()
    tokenizer_name = architecture(model)["text_cfg"].get("hf_tokenizer_name", "")
    given, tags = Path(weights).expanduser(), open_clip.list_pretrained_tags_by_model(model)
    missing: list[tuple[str, Sequence[str]]] = []
    found: Path | None
    if weights and given.exists():
        found, label = _in_folder(given) if given.is_dir() else given, given.name
        trained = _read_settings(model, found, [open_clip.get_pretrained_cfg(model, tag) for tag in tags])
    elif weights and (given.suffix in _SUFFIXES or len(given.parts) > 1):
        raise FileNotFoundError(f"expected the weights of {model} in {given}, but there is no such file")
    elif entry := open_clip.get_pretrained_cfg(model, weights):
        label, trained = weights, {"quick_gelu": False, **entry}
        repository, names = hub_files(entry)
        found = _cached(repository, names, cache)
        missing += [] if found else [(repository, names[:1]), (repository, names[1:])]
    else:
        raise ValueError(
            f"expected weights to be a file, a folder or one of open_clip's tags of {model}"
            f" ({', '.join(tags) or 'it has none'}), got {weights!r}"
        )
    tokenizer: Path | None = None
    if tokenizer_name:
        beside = found.parent / TOKENIZER[0] if found else None
        file = beside if beside and beside.is_file() else _cached(tokenizer_name, TOKENIZER[:1], cache)
        tokenizer = file.parent if file else None
        missing += [] if file else [(tokenizer_name, TOKENIZER)]
    if found is None or missing:
        raise FileNotFoundError(_say_missing(f"{model} ({label})", missing, cache))
    return ModelFiles(found, label, trained, tokenizer)


def load_weights(clip: Any, files: ModelFiles) -> None:
    """Fill a model of open_clip with open_clip's own loader, strictly; no code in the file is run.

    Raises:
        ValueError: the file is damaged, is no file of tensors, or belongs to another architecture.
    """
    path = files.weights
    try:
        import_open_clip().load_checkpoint(clip, str(path), strict=True, weights_only=True)
    except UnpicklingError as error:
        raise ValueError(
            f"expected only tensors in {path}, got a damaged file or one with objects that could run code,"
            f" which is refused; take {SAFETENSORS} of the same model"
        ) from error
    except Exception as error:  # Different faults in a file raise different classes.
        if "TorchScript" in str(error):
            raise ValueError(
                f"expected tensors in {path}, got a TorchScript archive, which is a program and is not run;"
                " write a tag such as 'openai' as weights to get the same weights as tensors"
            ) from error
        raise ValueError(f"expected weights of this model in {path}, got others: {error}") from error


def hub_files(entry: Mapping[str, Any]) -> tuple[str, tuple[str, str]]:
    """Repository and names of the weights, the preferred first, from an entry of open_clip's table."""
    repository, name = os.path.split(entry.get("hf_hub", ""))
    if not name:
        return repository, (SAFETENSORS, PICKLED)
    return repository, (f"{os.path.splitext(name)[0]}.safetensors", name)


def _cached(repository: str, names: Sequence[str], cache: str) -> Path | None:
    """The first of a repository's files in a cache of huggingface_hub."""
    from huggingface_hub import try_to_load_from_cache

    folder = Path(cache).expanduser() if cache else None
    paths = (try_to_load_from_cache(repository, name, cache_dir=folder) for name in names)
    return next((Path(path) for path in paths if isinstance(path, str)), None)


def _say_missing(what: str, missing: Sequence[tuple[str, Sequence[str]]], cache: str) -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    commands = [f"hf download {repository} {' '.join(names)}" for repository, names in missing]
    lines = "\n".join(f"    {command} --cache-dir {cache or 'clip_cache'}" for command in commands)
    first = " (the second only where a repository does not have the first)" if len(missing) > 1 else ""
    return (
        f"expected the files of {what} in {cache or HF_HUB_CACHE}, and not all of them are there. Nothing is"
        f" downloaded while a model loads: on a machine with a network, run{first}\n{lines}\nthen copy that"
        " folder to this machine and write into the model file\n    cache: THAT_FOLDER"
    )


def _in_folder(folder: Path) -> Path:
    """The weights in a folder: by their usual names, or the only file of tensors."""
    for name in (SAFETENSORS, PICKLED):
        if (folder / name).is_file():
            return folder / name
    files = [path for path in sorted(folder.iterdir()) if path.suffix in _SUFFIXES]
    if len(files) != 1:
        raise FileNotFoundError(
            f"expected {SAFETENSORS} or one file of tensors in {folder}, got "
            f"{', '.join(path.name for path in files) or 'none'}; name the file itself"
        )
    return files[0]


def _read_settings(model: str, weights: Path, published: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """How the weights in a file were trained: as the file beside them says, otherwise as all tags were.

    Args:
        model: the architecture.
        weights: the file.
        published: open_clip's entries of all tags of the architecture.
    """
    beside = weights.parent / CONFIGURATION
    if beside.is_file():
        said = json.loads(beside.read_text(encoding="utf-8"))
        quick_gelu = said.get("model_cfg", {}).get("quick_gelu", False)
        return {**said.get("preprocess_cfg", {}), "quick_gelu": quick_gelu}
    quick_gelu = architecture(model).get("quick_gelu", False)
    kinds = [(one["mean"], one["std"], one.get("quick_gelu", False)) for one in published]
    if any(kind != (*kinds[0][:2], quick_gelu) for kind in kinds):
        logger.warning(
            "%s is loaded with%s QuickGELU and with OpenAI's mean and standard deviation, but some published"
            " weights of %s need other settings; put the %s of these weights beside the file, or choose an"
            " architecture whose name ends with -quickgelu",
            weights, "" if quick_gelu else "out", model, CONFIGURATION,
        )  # fmt: skip
        return {}
    return {"mean": kinds[0][0], "std": kinds[0][1]} if kinds else {}
