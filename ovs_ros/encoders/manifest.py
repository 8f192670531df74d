"""The manifest of `ovs export`, and its checks before a network is opened."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from ovs_ros.encoders.text_cleaning import CLEANERS
from ovs_ros.runtime.files import file_digest

FILE = "manifest.json"
TOKENIZER = "tokenizer.json"
FORMAT = 1
PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class Manifest:
    """An exported model.

    Attributes:
        name: of the torch model: architecture, weights and variant.
        dim: D, the width of the space shared with words.
        stride: a patch's side in pixels.
        rows, columns: the grid of patches, fixed.
        logit_scale: what cosines are multiplied with.
        mean, std: of RGB in [0, 1]; inside the graph already.
        templates: prompt templates, each with one '{}'.
        keeps_prompts: whether the decoder wants each prompt's embedding.
        prompts: P, of each word that the decoder takes.
        decode_scale: how many logits a patch's side has; 0: there is no decoder.
        buckets: for how many words there are decoders, ascending.
        precisions: of the image encoder and of the decoders.
        cleaning: what a text goes through before the tokenizer, see `CLEANERS`.
        digests: SHA-256 of every file.
        parity: least and mean cosine with the torch model, by file and output.
    """

    name: str
    dim: int
    stride: int
    rows: int
    columns: int
    logit_scale: float
    mean: list[float]
    std: list[float]
    templates: list[str]
    keeps_prompts: bool
    prompts: int
    decode_scale: int
    buckets: list[int]
    precisions: list[str]
    cleaning: str
    digests: dict[str, str]
    parity: dict[str, dict[str, dict[str, float]]]
    format: int = FORMAT

    @property
    def decodes(self) -> bool:
        """Whether there is a decoder."""
        return self.decode_scale > 0

    def files(self) -> list[str]:
        """The names of all files that belong to it."""
        networks = [image_file(precision) for precision in self.precisions]
        networks += [decoder_file(m, precision) for m in self.buckets for precision in self.precisions]
        return [*networks, text_file(), TOKENIZER]


def image_file(precision: str) -> str:
    """The image encoder: `image` (1, H, W, 3) uint8 RGB to `patches`, `pooled` and what the decoder needs."""
    return f"image.{precision}.onnx"


def decoder_file(words: int, precision: str) -> str:
    """The decoder for at most so many words."""
    return f"decoder.{words}.{precision}.onnx"


def text_file() -> str:
    """The text tower: `tokens` (T, L) int64 to `embeddings` (T, D)."""
    return "text.fp32.onnx"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write it into the folder."""
    text = json.dumps(asdict(manifest), indent=2, ensure_ascii=False)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Read and check a folder that `ovs export` wrote, files included.

    Raises:
        FileNotFoundError: the manifest or a file that it names is missing.
        ValueError: the manifest is damaged or of another format, or a file is not the one that was written.
    """
    path = folder / FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"expected {FILE} in {folder}, found none; write the folder with 'ovs export'"
        )
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(path, f"something that is not JSON: {error}") from error
    if not isinstance(loaded, dict) or loaded.get("format") != FORMAT:
        raise _damaged(path, f"format {loaded.get('format') if isinstance(loaded, dict) else loaded!r}")
    _check_types(path, loaded)
    manifest = Manifest(**loaded)
    _check_values(path, manifest)
    for name in manifest.files():
        if not (folder / name).is_file():
            raise FileNotFoundError(f"expected {name} in {folder}, found none; copy the folder as a whole")
        if file_digest(folder / name) != manifest.digests.get(name):
            raise ValueError(
                f"expected {folder / name} as it was exported, got a file with another digest; copy or "
                "export the folder again"
            )
    return manifest


def _check_types(path: Path, loaded: Mapping[str, Any]) -> None:
    kinds = get_type_hints(Manifest)
    if set(loaded) != {field.name for field in fields(Manifest)}:
        raise _damaged(path, f"the keys {', '.join(sorted(loaded))}")
    for name, kind in kinds.items():
        value = loaded[name]
        outer = getattr(kind, "__origin__", kind)
        whole_for_real = outer is float and isinstance(value, int)
        right = isinstance(value, outer) and isinstance(value, bool) == (outer is bool)
        if right and outer is list:
            (inner,) = kind.__args__
            right = all(isinstance(item, inner) and not isinstance(item, bool) for item in value)
        if not right and not whole_for_real:
            raise _damaged(path, f"{value!r} for {name}")


def _check_values(path: Path, manifest: Manifest) -> None:
    sound = {
        "dim": manifest.dim > 0,
        "stride": manifest.stride > 0,
        "rows": manifest.rows > 0,
        "columns": manifest.columns > 0,
        "logit_scale": manifest.logit_scale > 0,
        "mean": len(manifest.mean) == 3,
        "std": len(manifest.std) == 3 and min(manifest.std, default=0) > 0,
        "templates": bool(manifest.templates) and all(t.count("{}") == 1 for t in manifest.templates),
        "prompts": manifest.prompts > 0,
        "decode_scale": manifest.decode_scale >= 0,
        "buckets": manifest.buckets == sorted(set(manifest.buckets))
        and bool(manifest.buckets) == manifest.decodes
        and min(manifest.buckets, default=1) > 0,
        "precisions": "fp32" in manifest.precisions and set(manifest.precisions) <= set(PRECISIONS),
        "cleaning": manifest.cleaning in CLEANERS,
    }
    for name, good in sound.items():
        if not good:
            raise _damaged(path, f"{getattr(manifest, name)!r} for {name}")


def _damaged(path: Path, got: str) -> ValueError:
    return ValueError(f"expected what 'ovs export' writes in {path}, got {got}; export the model again")
