"""The files of an open_clip model: where they are on this machine, or how to get them; no downloads."""

import json
import logging
import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ovs_ros.encoders.clip.imports import import_open_clip
from ovs_ros.zoo.keys import Checkpoint, Rule, map_keys, read_checkpoint

logger = logging.getLogger(__name__)

SAFETENSORS, PICKLED = "open_clip_model.safetensors", "open_clip_pytorch_model.bin"
"""What the weights are called in the hub's repositories of open_clip's models."""
CONFIGURATION = "open_clip_config.json"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
_IN_FOLDERS = (SAFETENSORS, PICKLED, "model.safetensors", "pytorch_model.bin")
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
_TRANSFORMERS = ("text_model.", "vision_model.")
"""How keys begin where the package transformers wrote the file."""


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model of open_clip, and what its weights ask of the network.

    Attributes:
        weights: a file of tensors.
        label: the tag, or the file's name.
        sha256: how the digest of `weights` has to begin; '' where none is known.
        quick_gelu: whether the weights were trained with QuickGELU; None: as the architecture says.
        mean, std: of RGB in [0, 1], what the weights were trained with.
        tokenizer: a folder with tokenizer.json, for models that do not use CLIP's tokenizer.
    """

    weights: Path
    label: str
    sha256: str
    quick_gelu: bool | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    tokenizer: Path | None


def architecture(model: str) -> dict[str, Any]:
    """open_clip's configuration of an architecture.

    Raises:
        ValueError: open_clip knows none of that name.
    """
    open_clip = import_open_clip()
    config = open_clip.get_model_config(model)
    if config is None:
        near = get_close_matches(model, open_clip.list_models(), n=5, cutoff=0.4)
        raise ValueError(
            f"expected model to be an architecture of open_clip, got {model!r}; near it are"
            f" {', '.join(near)}, and open_clip.list_models() names them all"
        )
    return config


def find_files(model: str, weights: str, cache: str = "") -> ModelFiles:
    """Find weights and tokenizer on this machine.

    Tags are looked up in open_clip's table, and their files in `cache`, then where huggingface_hub
    (HF_HUB_CACHE, HF_HOME), open_clip (~/.cache/clip) and torch (TORCH_HOME) keep downloads. A folder holds a
    repository's files as REPOSITORY/FILE or OWNER/REPOSITORY/FILE, or in the hub's own layout.

    Args:
        model: an architecture that open_clip knows.
        weights: a tag such as 'openai', a file of tensors, or a folder with one.
        cache: a folder; '' for the usual places alone.

    Raises:
        FileNotFoundError: something is missing; the message has the commands that fetch all of it.
        ValueError: open_clip knows no such architecture or tag, or the file is a program.
    """
    open_clip = import_open_clip()
    config, caches = architecture(model), _caches(cache)
    given, tags = Path(weights).expanduser(), open_clip.list_pretrained_tags_by_model(model)
    entry: Mapping[str, Any] = {}
    found: Path | None
    sha256, label, commands = "", given.name, []
    if weights and given.is_dir():
        found = _in_folder(given)
    elif weights and given.is_file():
        found = given
    elif weights and (given.suffix in _SUFFIXES or len(given.parts) > 1):
        raise FileNotFoundError(f"expected the weights of {model} in {given}, and there is no such file")
    else:
        entry, label = open_clip.get_pretrained_cfg(model, weights), weights
        if not entry:
            raise ValueError(
                f"expected weights to be a file, a folder or one of open_clip's tags of {model}"
                f" ({', '.join(tags) or 'it has none'}), got {weights!r}"
            )
        repository, names = _in_hub(entry)
        found = _cached(repository, names, caches)
        if found is None and (found := _downloaded(entry, caches)):
            sha256 = _digest(entry["url"])
        program = found if found and _is_torchscript(found) else None
        if found is None or program:
            found, sha256 = None, ""
            commands.append(_command(repository, (names[0], CONFIGURATION)))
            commands.append(f"(where it has no {names[0]}, take {names[-1]})")
        if program:
            commands.append(f"({program} is a TorchScript archive, that is a program, which is not run)")

    if found is not None and _is_torchscript(found):
        published = open_clip.get_pretrained_cfg(model, "openai")
        repository, names = _in_hub(published) if published else ("REPOSITORY", (SAFETENSORS,))
        raise ValueError(
            f"expected tensors in {found}, got a TorchScript archive, which is a program and is not run; take"
            f" the same weights as tensors:\n    {_command(repository, (names[0], CONFIGURATION))}"
        )

    tokenizer: Path | None = None
    if repository := config["text_cfg"].get("hf_tokenizer_name", ""):
        if found is not None and (found.parent / TOKENIZER[0]).is_file():
            tokenizer = found.parent
        elif file := _cached(repository, TOKENIZER[:1], caches):
            tokenizer = file.parent
        else:
            commands.append(_command(repository, TOKENIZER))

    if found is None or commands:
        lines = "\n".join(f"    {command}" for command in commands)
        raise FileNotFoundError(
            f"expected the files of {model} ({label}) on this machine, and did not find all of them in "
            f"{', '.join(str(folder) for folder in caches)}. Nothing is downloaded from here: on a machine "
            f"with a network, run\n{lines}\nthen carry the new folders into one folder here, and write into "
            "the model file\n    cache: THAT_FOLDER"
        )
    quick_gelu, mean, std = _preprocessing(
        found, bool(config.get("quick_gelu")), entry, [open_clip.get_pretrained_cfg(model, t) for t in tags]
    )
    return ModelFiles(found, label, sha256, quick_gelu, mean, std, tokenizer)


def load_weights(clip: Any, files: ModelFiles) -> str:
    """Fill a model of open_clip, strictly; no code in the file is run.

    Taken are open_clip's state dicts, also under 'state_dict' and with 'module.' before each key, Apple's for
    MobileCLIP, and position tables of another size, which are resampled as open_clip does.

    Returns:
        the sha256 of the file, in hexadecimal.

    Raises:
        ValueError: keys are missing or foreign, or shapes are others (one message names them all), the file
            holds more than tensors, or it is damaged.
    """
    open_clip = import_open_clip()
    checkpoint = read_checkpoint(files.weights)
    if not checkpoint.sha256.startswith(files.sha256):
        raise ValueError(
            f"expected the sha256 of {files.weights} to begin with {files.sha256}, got {checkpoint.sha256};"
            " the file is damaged: fetch it again"
        )
    state = {
        re.sub(r"^(module\.)?", "", key): tensor
        for key, tensor in checkpoint.tensors.items()
        if key not in ("input_resolution", "context_length", "vocab_size")
    }
    if any(key.startswith(_TRANSFORMERS) for key in state):
        raise ValueError(
            f"expected open_clip's keys in {files.weights}, got those of the package transformers; name a tag"
            " as weights, and where its files are missing the error has the command that fetches them"
        )
    state = open_clip.convert.convert_state_dict(clip, state)
    if "positional_embedding" in state and not hasattr(clip, "positional_embedding"):
        state = open_clip.model.convert_to_custom_text_state_dict(state)
    _fit(clip, state)
    named = Checkpoint(checkpoint.path, checkpoint.sha256, state)
    clip.load_state_dict(map_keys(named, clip.state_dict(), (Rule("(.*)", r"\1"),)))
    return checkpoint.sha256


def _fit(clip: Any, state: dict[str, Any]) -> None:
    """Bring to the model's shapes what open_clip keeps in several shapes, in place."""
    open_clip, wanted = import_open_clip(), clip.state_dict()
    for key in ("logit_scale", "logit_bias"):
        if key in state and key in wanted and state[key].numel() == wanted[key].numel():
            state[key] = state[key].reshape(wanted[key].shape)
    if "logit_bias" in wanted and "logit_bias" not in state:
        state["logit_bias"] = 0 * wanted["logit_bias"]
    image, text = "visual.positional_embedding", "positional_embedding"
    if image in wanted and image in state and state[image].shape[1:] == wanted[image].shape[1:]:
        side = round((len(state[image]) - 1) ** 0.5)
        if len(state[image]) == side * side + 1:
            state[image] = state[image].float()  # The CPU resamples no others.
            open_clip.model.resize_pos_embed(state, clip)
    text = text if text in wanted else f"text.{text}"
    if text in wanted and text in state and state[text].shape[1:] == wanted[text].shape[1:]:
        open_clip.model.resize_text_pos_embed(state, clip)


def _caches(cache: str) -> list[Path]:
    """Folders where downloads lie, the given one first."""
    environment = os.environ
    home = Path(environment.get("XDG_CACHE_HOME") or "~/.cache")
    hub = Path(environment.get("HF_HOME") or home / "huggingface") / "hub"
    usual = (
        Path(environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE") or hub),
        Path("~/.cache/clip"),
        Path(environment.get("TORCH_HOME") or home / "torch") / "hub" / "checkpoints",
    )
    return [folder.expanduser() for folder in ((Path(cache),) if cache else ()) + usual]


def _in_hub(entry: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Repository and names of the weights, the best first, out of an entry of open_clip's table."""
    repository, name = os.path.split(entry.get("hf_hub", ""))
    if not name:
        return repository, (SAFETENSORS, PICKLED)
    return repository, (f"{os.path.splitext(name)[0]}.safetensors", name)


def _cached(repository: str, names: Sequence[str], caches: Sequence[Path]) -> Path | None:
    """The first of a repository's files that one of the folders holds."""
    from huggingface_hub import try_to_load_from_cache

    for folder in caches if repository else ():
        for name in names:
            for path in (folder / repository / name, folder / Path(repository).name / name):
                if path.is_file():
                    return path
            found = try_to_load_from_cache(repository, name, cache_dir=folder)
            if isinstance(found, str):
                return Path(found)
    return None


def _downloaded(entry: Mapping[str, Any], caches: Sequence[Path]) -> Path | None:
    """What open_clip itself downloaded from the entry's address."""
    name = os.path.basename(entry.get("url", ""))
    return next((folder / name for folder in caches if name and (folder / name).is_file()), None)


def _digest(url: str) -> str:
    """How the sha256 of a file begins: OpenAI has it as a folder, open_clip's releases end names with it."""
    if "openaipublic" in url:
        return url.split("/")[-2]
    return os.path.splitext(url)[0].split("-")[-1] if "mlfoundations" in url else ""


def _in_folder(folder: Path) -> Path:
    """The weights in a folder: by their usual names, or the only file of tensors."""
    for name in _IN_FOLDERS:
        if (folder / name).is_file():
            return folder / name
    files = [path for path in sorted(folder.iterdir()) if path.suffix in _SUFFIXES]
    if len(files) != 1:
        raise FileNotFoundError(
            f"expected {SAFETENSORS} or one file of tensors in {folder}, got "
            f"{', '.join(path.name for path in files) or 'none'}; name the file itself"
        )
    return files[0]


def _preprocessing(
    weights: Path, quick: bool, entry: Mapping[str, Any], others: Sequence[Mapping[str, Any]]
) -> tuple[bool | None, tuple[float, ...], tuple[float, ...]]:
    """QuickGELU, mean and std: as the tag says, else the file beside the weights, else the architecture.

    Args:
        weights: the file.
        quick: whether the architecture has QuickGELU.
        entry: of the tag; empty where there is none.
        others: of all tags of the architecture.
    """
    open_clip = import_open_clip()
    quick_gelu: bool | None = None
    beside = weights.parent / CONFIGURATION
    if entry:
        quick_gelu = bool(entry.get("quick_gelu", False))
    elif beside.is_file():
        said = json.loads(beside.read_text(encoding="utf-8"))
        entry = said.get("preprocess_cfg", {})
        quick_gelu = bool(said.get("model_cfg", {}).get("quick_gelu", False))
    else:
        if not quick and any(other.get("quick_gelu", False) for other in others):
            logger.warning(
                "%s is taken without QuickGELU, as there is no %s beside it; OpenAI's, DFN's and MetaCLIP's"
                " weights have it: for them, name the architecture that ends with -quickgelu",
                weights,
                CONFIGURATION,
            )
        means = {(tuple(other["mean"]), tuple(other["std"])) for other in others}
        if len(means) == 1:
            entry = others[0]
        elif means:
            logger.warning(
                "%s is given images normalised as OpenAI's CLIP has them, as there is no %s beside it, and"
                " some weights of its architecture were trained otherwise: copy that file there",
                weights,
                CONFIGURATION,
            )
    mean = entry.get("mean", open_clip.OPENAI_DATASET_MEAN)
    return quick_gelu, tuple(mean), tuple(entry.get("std", open_clip.OPENAI_DATASET_STD))


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _command(repository: str, names: Sequence[str]) -> str:
    return f"hf download {repository} {' '.join(names)} --local-dir {Path(repository).name}"
