"""A model in a YAML file: which network, which weights, and how it runs. One file serves every machine."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from ovs_ros.encoders.manifest import FILE, image_file
from ovs_ros.runtime.files import is_file
from ovs_ros.runtime.quoting import quoted, quoted_list
from ovs_ros.runtime.yaml_file import PlainLoader, read_text
from ovs_ros.vocabulary.category import MAX_PROMPT_LENGTH, checked_text

Attention = Literal[
    "naclip", "maskclip", "sclip", "clearclip", "proxyclip", "scclip", "dinoiser", "radseg", "plain"
]
"""How the last layer's patches see each other (see clip/attention.py; 'radseg' is RADIO's alone)."""
Precision = Literal["auto", "fp32", "fp16", "bf16"]

MODEL_FILES = Path(__file__).parents[1] / "models" / "files"
"""The model files that come with the package."""
_CHOICES: dict[str, tuple[str, ...]] = {
    "attention": get_args(Attention),
    "precision": get_args(Precision),
}
MODEL_FILE = "model.yaml"
"""Name of the model file in a model folder, such as a run of `ovs train network`."""
EMBEDDED = ("stream", "quality")
"""What `model` calls the embedded model, at one scale and at several."""
_MOST_BYTES = 1 << 16
_OF_EMBEDDED = ("model", "network")
"""The keys that count beside the embedded model."""
_OF_EXPORTED = ("model", "device", "precision", "templates")
"""The keys allowed with a folder of `ovs export`; the export fixed all others."""


@dataclass(frozen=True)
class ModelFile:
    """The content of a model file; each field is a key of the YAML.

    Attributes:
        model: 'stream' or 'quality' (the embedded model), a folder of an embedded model's files, an
            architecture that open_clip knows, 'cat-seg-b', 'cat-seg-l', 'sed-b', 'sed-l', 'san-b', 'san-l',
            'radio', or a folder that `ovs export` wrote.
        weights: a tag of open_clip such as 'openai', or a file; relative paths are the model file's.
        cache: a cache folder of huggingface_hub, for weights by tag; '' for the usual one (HF_HUB_CACHE).
        network: a file with a trained network, which `ovs train network` wrote; '' for none.
        tuned: a file with the encoders' weights that were tuned with the network; '' for none.
        attention: the last layer's, for ViTs.
        patches: how many patches an image is cut into at most.
        window: side of the sliding windows in pixels; 0: one pass over the whole image.
        stride: from one window to the next, in pixels; 0: half a window.
        templates: prompt templates, each with one '{}'; empty: those that suit the model.
        proxy: an ONNX file or 'embedded', the encoder whose affinities 'proxyclip' takes.
        heads: a file with CLIP-DINOiser's heads, for 'dinoiser'.
        adaptor: of RADIO models, the adaptor whose space words share.
        adaptor_model: its text tower, 'ARCHITECTURE:WEIGHTS', where WEIGHTS is a tag of open_clip or a file.
        device: 'auto' (a GPU where there is one), 'cpu', 'cuda' or 'cuda:N'.
        precision: 'auto' (the fastest that suits the device), 'fp32', 'fp16' or 'bf16'.

    Raises:
        ValueError: a field is out of its range.
        TypeError: a field is of another type.
    """

    model: str
    weights: str = ""
    cache: str = ""
    network: str = ""
    tuned: str = ""
    attention: Attention = "naclip"
    patches: int = 1036
    window: int = 0
    stride: int = 0
    templates: tuple[str, ...] = ()
    proxy: str = "embedded"
    heads: str = ""
    adaptor: str = ""
    adaptor_model: str = ""
    device: str = "auto"
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        if isinstance(self.templates, str) or not isinstance(self.templates, Sequence):
            raise TypeError(f"expected templates to be a list, got {quoted(self.templates)}")
        object.__setattr__(self, "templates", tuple(self.templates))
        for field in fields(self):
            value, default = getattr(self, field.name), getattr(type(self), field.name, "")
            if not isinstance(value, type(default)) or isinstance(value, bool) != isinstance(default, bool):
                raise TypeError(
                    f"expected {field.name} to be of type {type(default).__name__}, got {quoted(value)}"
                )
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"expected {name} to be one of {', '.join(choices)}, got {quoted(getattr(self, name))}"
                )
        if not re.fullmatch("auto|cpu|cuda(:[0-9]+)?", self.device):
            raise ValueError(f"expected device to be auto, cpu, cuda or cuda:N, got {quoted(self.device)}")
        for name, least in (("patches", 1), ("window", 0), ("stride", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"expected {name} to be at least {least}, got {getattr(self, name)}")
        if not self.model:
            raise ValueError("expected model to name an architecture or a folder, got nothing")
        for template in self.templates:
            if not isinstance(template, str) or template.count("{}") != 1:
                raise ValueError(f"expected templates with one '{{}}' each, got {quoted(template)}")
            checked_text(template, "a template", MAX_PROMPT_LENGTH, "name")

    @property
    def embedded(self) -> bool:
        """Whether `model` means the embedded model, or a folder of such a model's files."""
        return self.model in EMBEDDED or holds_embedded(Path(self.model))

    @property
    def exported(self) -> bool:
        """Whether `model` means a folder of `ovs export`, which runs without torch.

        A path does, and so does a name under which such a folder lies. Any other name is an architecture, for
        what the hub's repositories are fetched into is often called as the architecture is.
        """
        return not self.embedded and ("/" in self.model or _holds_exported(Path(self.model)))


def find_model_file(name: str) -> Path:
    """The file that a name means: a path, a model folder, or a shipped file, with or without '.yaml'.

    Raises:
        ValueError: there is no such file.
    """
    path = Path(name).expanduser()
    for candidate in (path, path / MODEL_FILE, MODEL_FILES / name, MODEL_FILES / f"{name}.yaml"):
        if name and is_file(candidate):
            return candidate
    known = ", ".join(sorted(path.stem for path in MODEL_FILES.glob("*.yaml")))
    raise ValueError(
        f"expected the model to be stream, quality, a model file (YAML) or one of {known}, got {quoted(name)}"
    )


def read_model_file(path: Path) -> ModelFile:
    """Read a model file; relative paths in it are taken from its folder.

    Those of a file that comes with the package are the working directory's, if they are not beside it.

    Raises:
        ValueError: it is no YAML mapping, or has keys that no model file has or that do not count for its
            model, or values out of range.
        FileNotFoundError: there is no such file.
    """
    try:
        loaded: Any = yaml.load(read_text(path, _MOST_BYTES), Loader=PlainLoader)  # noqa: S506  # a safe one
    except (yaml.YAMLError, ValueError, OverflowError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"expected YAML in {path}, got something else: {reason}") from error
    known = {field.name for field in fields(ModelFile)}
    if not isinstance(loaded, dict) or "model" not in loaded:
        raise ValueError(f"expected a mapping with at least the key model in {path}, got {quoted(loaded)}")
    if foreign := sorted(str(key) for key in set(loaded) - known):
        raise ValueError(
            f"expected keys out of {', '.join(sorted(known))} in {path}, got {quoted_list(foreign)}"
        )
    for name in ("model", "weights", "cache", "network", "tuned", "proxy", "heads"):
        if isinstance(value := loaded.get(name), str):
            loaded[name] = _located(name, value, path.absolute().parent)
    if isinstance(tower := loaded.get("adaptor_model"), str) and ":" in tower:
        architecture, _, weights = tower.partition(":")
        weights = _located("weights", weights, path.absolute().parent)
        loaded["adaptor_model"] = f"{architecture}:{weights}"
    try:
        file = ModelFile(**loaded)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{error} (in {path})") from error
    kind, allowed = ("embedded model", _OF_EMBEDDED) if file.embedded else ("exported model", _OF_EXPORTED)
    if (file.embedded or file.exported) and (idle := sorted(set(loaded) - set(allowed))):
        raise ValueError(
            f"expected keys out of {', '.join(allowed)} beside the {kind} {file.model} in {path}, got "
            f"{', '.join(idle)}; leave them out"
        )
    return file


def _located(key: str, value: str, folder: Path) -> str:
    """A value that means a path, from a model file's folder; names, tags and '' as they are."""
    if not value or (key == "proxy" and value == "embedded"):
        return value
    beside = folder / Path(value).expanduser()
    is_path = "/" in value or value.startswith((".", "~")) or key not in ("model", "weights")
    is_path = is_path or (key == "weights" and bool(Path(value).suffix))
    there = beside.exists() if key != "model" else _holds_exported(beside) or holds_embedded(beside)
    # One that is missing must not be another of its name, in the working directory.
    return str(beside) if there or (is_path and folder != MODEL_FILES) else value


def holds_embedded(folder: Path) -> bool:
    """Whether a folder holds the files of an embedded model, as `ovs train embedded` writes them."""
    return (folder / "text_head.npz").is_file()


def _holds_exported(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (FILE, image_file("fp32")))
