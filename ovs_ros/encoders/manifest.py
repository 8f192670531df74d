"""The manifest of `ovs export`, and its checks before a network is opened."""

import json
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from ovs_ros.runtime.files import file_digest, read_file, write_atomically
from ovs_ros.runtime.quoting import quoted

FILE = "manifest.json"
TOKENIZER = "tokenizer.json"
SELECTION_FILE = "selection.npz"
"""The trained selection head's name, beside a trained network and in a folder of `ovs export`."""
FORMAT = 2
_MOST_BYTES = 16 << 20


@dataclass(frozen=True)
class Manifest:
    """An exported model.

    Attributes:
        name: of the torch model: architecture, weights and variant.
        dim: D, the width of the space shared with words.
        stride: a patch's side in pixels.
        rows, columns: the grid of patches, fixed.
        logit_scale: what cosines are multiplied with.
        mean: of RGB in [0, 1], the colour of padding; the graph itself subtracts it.
        templates: prompt templates, each with one '{}'.
        keeps_prompts: whether the decoder wants each prompt's embedding.
        prompts: P, of each word that the decoder takes.
        decode_scale: how many logits a patch's side has; 0: there is no decoder.
        buckets: for how many words there are decoders, ascending.
        precisions: of the image encoder and of the decoders.
        cleaning: what a text goes through before the tokenizer, see `CLEANERS`.
        digests: SHA-256 of every file.
        parity: least and mean cosine with the torch model, by file and output.
        trained_names: that pixels were labelled with in training, as far as they are known.
    """

    name: str
    dim: int
    stride: int
    rows: int
    columns: int
    logit_scale: float
    mean: list[float]
    templates: list[str]
    keeps_prompts: bool
    prompts: int
    decode_scale: int
    buckets: list[int]
    precisions: list[str]
    cleaning: str
    digests: dict[str, str]
    parity: dict[str, dict[str, dict[str, float]]]
    trained_names: list[str] = field(default_factory=list)
    format: int = FORMAT

    @property
    def decodes(self) -> bool:
        """Whether there is a decoder."""
        return self.decode_scale > 0

    def files(self) -> list[str]:
        """The names of all files that belong to it."""
        networks = [image_file(precision) for precision in self.precisions]
        networks += [decoder_file(m, precision) for m in self.buckets for precision in self.precisions]
        return [*networks, text_file(), TOKENIZER, *([SELECTION_FILE] if self.selects else [])]

    @property
    def selects(self) -> bool:
        """Whether there is a trained selection head."""
        return SELECTION_FILE in self.digests


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
    """Write it into the folder, with a digest of its own content."""
    content = asdict(manifest)
    text = json.dumps({**content, "digest": _digest(content)}, indent=2, ensure_ascii=False)
    write_atomically(folder / FILE, f"{text}\n".encode())


def read_manifest(folder: Path) -> Manifest:
    """Read and check a folder that `ovs export` wrote, files included.

    Raises:
        FileNotFoundError: the manifest or a file that it names is missing.
        ValueError: the manifest or a file is not the one that was written.
    """
    path = folder / FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"expected {FILE} in {folder}, found none; write the folder with 'ovs export'"
        )
    try:
        loaded = json.loads(read_file(path, _MOST_BYTES))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"something that is not JSON: {error}") from error
    if not isinstance(loaded, dict) or loaded.get("format") != FORMAT:
        raise _damaged(path, f"format {quoted(loaded.get('format') if isinstance(loaded, dict) else loaded)}")
    if loaded.pop("digest", None) != _digest(loaded):
        raise _damaged(path, "a file that was changed")
    try:
        manifest = Manifest(**loaded)
        names = manifest.files()
    except TypeError as error:
        raise _damaged(path, "another form of it") from error
    for name in names:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"expected {name} in {folder}, found none; copy the folder as a whole")
        if file_digest(folder / name) != manifest.digests.get(name):
            raise ValueError(
                f"expected {folder / name} as it was exported, got a file with another digest; copy or "
                "export the folder again"
            )
    return manifest


def _digest(content: dict[str, Any]) -> str:
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _damaged(path: Path, got: str) -> ValueError:
    return ValueError(f"expected what 'ovs export' writes in {path}, got {got}; export the model again")
