"""A model that `ovs export` wrote, run by ONNX Runtime: neither torch nor open_clip is needed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ovs_ros.encoders.features import Features
from ovs_ros.encoders.heads import Array, CosineHead, DecoderHead, Head, Words
from ovs_ros.encoders.manifest import (
    TOKENIZER,
    Manifest,
    decoder_file,
    image_file,
    read_manifest,
    text_file,
)
from ovs_ros.encoders.patches import PatchGrid, place
from ovs_ros.encoders.text_cleaning import CLEANERS, reads
from ovs_ros.encoders.tokenizer_file import read_tokenizer
from ovs_ros.runtime.onnx import CPU, BoundSession, open_session, providers_for
from ovs_ros.runtime.stage_clock import StageClock

BATCH = 64
"""How many texts go through the tower at once."""
_PREFERRED = {"cpu": ("int8", "fp32"), "gpu": ("fp16", "fp32")}
"""Which of the exported precisions 'auto' takes."""


def load_exported(
    folder: Path,
    *,
    device: str = "auto",
    precision: str = "auto",
    templates: Sequence[str] = (),
) -> tuple["ExportedImageEncoder", "ExportedTextEncoder"]:
    """Open what `ovs export` wrote.

    Args:
        folder: its folder.
        device: 'auto', 'cpu', 'cuda' or 'cuda:N'.
        precision: 'fp32', 'fp16', 'int8', or 'auto': on a CPU int8, on a GPU fp16, where it was exported,
            else fp32. On a CPU 'fp16' means the same as 'auto', so that one model file serves both.
        templates: prompt templates, each with one '{}'; empty: those that were exported.

    Raises:
        FileNotFoundError: the folder lacks a file.
        ValueError: a file or the manifest is not as it was written, the device is missing, or the precision
            was not exported.
    """
    manifest = read_manifest(folder)
    chosen = _choose(manifest, device, precision)
    image = ExportedImageEncoder(folder, manifest, device=device, precision=chosen)
    on_cpu = _choose(manifest, "cpu", precision)
    if image.device == "cpu" and image.precision != on_cpu:
        # ONNX Runtime knows GPUs and found none that works.
        image = ExportedImageEncoder(folder, manifest, device="cpu", precision=on_cpu)
    return image, ExportedTextEncoder(folder, manifest, templates)


class ExportedImageEncoder:
    """The image side of an exported model; see `ImageEncoder` for the contract.

    Images of any shape are scaled into the one grid that was exported, without distortion; what they leave is
    padding. Not safe to be used by two threads at once: the input image is kept between frames.

    Attributes:
        precision: in which it runs.
        manifest: of the folder.

    Args:
        folder: with the networks.
        manifest: what was read from it.
        device: 'auto', 'cpu', 'cuda' or 'cuda:N'.
        precision: one that was exported.
    """

    def __init__(self, folder: Path, manifest: Manifest, *, device: str, precision: str) -> None:
        def open_file(name: str, reference: str) -> BoundSession:
            session = open_session(
                folder / name, device=device, precision=precision, reference=folder / reference
            )
            return BoundSession(session)

        self.manifest = manifest
        self._network = open_file(image_file(precision), image_file("fp32"))
        self._decoders = {
            words: open_file(decoder_file(words, precision), decoder_file(words, "fp32"))
            for words in manifest.buckets
        }
        self._canvas: tuple[PatchGrid, NDArray[np.uint8]] | None = None
        self.dim = manifest.dim
        self.logit_scale = manifest.logit_scale
        self.device = self._network.device
        # Where no GPU works after all, float32 has taken fp16's place.
        self.precision = "fp32" if precision == "fp16" and self.device == "cpu" else precision
        self.name = f"{manifest.name}@{manifest.rows * manifest.columns}-{self.precision}-onnx"

    def encode(self, image: NDArray[np.uint8]) -> Features:
        """Encode an RGB image (H, W, 3) uint8, scaled into the exported grid without distortion."""
        clock, manifest = StageClock(), self.manifest
        grid = fit_into(image.shape[0], image.shape[1], manifest.rows, manifest.columns, manifest.stride)
        if self._canvas is None or self._canvas[0] != grid:
            canvas = np.empty((grid.rows * grid.patch, grid.columns * grid.patch, 3), np.uint8)
            canvas[:] = np.round(255 * np.array(manifest.mean))
            self._canvas = grid, canvas
        pixels = place(image, grid, self._canvas[1])[None]  # (1, H, W, 3)
        clock.stage("prepare")
        outputs = self._network.run({"image": pixels})
        patch_tokens = outputs["patches"].numpy()[0]  # (h, w, D)
        head: Head = CosineHead(patch_tokens, self.logit_scale)
        if self._decoders:
            scale = manifest.decode_scale
            head = DecoderHead(
                manifest.name,
                (manifest.rows * scale, manifest.columns * scale),
                lambda words: self._decode(words, outputs),
            )
        clock.stage("encode")
        return Features(
            class_token=outputs["pooled"].numpy()[0],
            patch_tokens=patch_tokens,
            head=head,
            valid=grid.valid,
            logit_scale=self.logit_scale,
            stages_ms=clock.stages_ms,
        )

    def _decode(self, prompts: Words, features: Mapping[str, ort.OrtValue]) -> Array:
        """Logits (h', w', M) of words (M, P, D).

        Words fill the smallest decoder that holds them; zeros fill the rest, which the decoder leaves out of
        account. More words than the largest holds are decoded in parts.

        Raises:
            ValueError: words have another number of prompts than the decoder takes.
        """
        if prompts.shape[1] != self.manifest.prompts:
            raise ValueError(
                f"expected {self.manifest.prompts} prompts for each word, got {prompts.shape[1]}; embed the "
                "words with the text encoder that was exported"
            )
        parts, largest = [], max(self._decoders)
        for start in range(0, len(prompts), largest):
            words = prompts[start : start + largest]
            bucket = min(size for size in self._decoders if size >= len(words))
            padded = np.zeros((bucket, *words.shape[1:]), np.float32)
            padded[: len(words)] = words
            decoder = self._decoders[bucket]
            given = {name: padded if name == "words" else features[name] for name in decoder.inputs}
            parts.append(decoder.run(given)["logits"].numpy()[: len(words)])
        return np.ascontiguousarray(np.concatenate(parts).transpose(1, 2, 0))


class ExportedTextEncoder:
    """The text side of an exported model; see `TextEncoder` for the contract. It runs on the CPU.

    Args:
        folder: with the tower and the tokenizer.
        manifest: what was read from it.
        templates: in place of the manifest's; empty: those.

    Raises:
        ValueError: the decoder wants as many prompts of each word as it was exported with.
    """

    def __init__(self, folder: Path, manifest: Manifest, templates: Sequence[str] = ()) -> None:
        if manifest.keeps_prompts and templates and len(templates) != manifest.prompts:
            raise ValueError(
                f"expected {manifest.prompts} templates, with which {manifest.name} was exported, got "
                f"{len(templates)}; leave them out, or export the model with them"
            )
        self._session = open_session(folder / text_file())
        self._tokenizer = read_tokenizer(folder / TOKENIZER)
        self._clean = CLEANERS[manifest.cleaning]
        self.dim = manifest.dim
        self.templates = tuple(templates or manifest.templates)
        self.keeps_prompts = manifest.keeps_prompts
        # The digest of the file, so that no cache mixes embeddings of two exports.
        self.name = f"{manifest.name} onnx-{manifest.digests[text_file()][:12]}"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts: (len(texts), D) float32, rows of unit L2 norm."""
        embeddings = np.empty((len(texts), self.dim), np.float32)
        for start in range(0, len(texts), BATCH):
            cleaned = [self._clean(text) for text in texts[start : start + BATCH]]
            tokens = np.array([one.ids for one in self._tokenizer.encode_batch(cleaned)], np.int64)
            embeddings[start : start + BATCH] = self._session.run(None, {"tokens": tokens})[0]
        return embeddings

    def reads(self, text: str) -> bool:
        """See `TextEncoder.reads`."""
        return reads(self._tokenizer, self._clean(text))


def fit_into(height: int, width: int, rows: int, columns: int, patch: int) -> PatchGrid:
    """How an image of any shape lies in a grid of a given one, as large as possible without distortion.

    Raises:
        ValueError: an empty image.
    """
    if height < 1 or width < 1:
        raise ValueError(f"expected an image of at least 1 x 1 pixels, got {width} x {height}")
    scale = min(rows * patch / height, columns * patch / width)
    return PatchGrid(
        rows=rows,
        columns=columns,
        height=min(rows * patch, max(1, round(height * scale))),
        width=min(columns * patch, max(1, round(width * scale))),
        patch=patch,
    )


def _choose(manifest: Manifest, device: str, precision: str) -> str:
    """One of the exported precisions."""
    on_cpu = providers_for(device, ort.get_available_providers())[0] == CPU
    if precision == "auto" or (precision == "fp16" and on_cpu):
        kinds = _PREFERRED["cpu" if on_cpu else "gpu"]
        return next(kind for kind in kinds if kind in manifest.precisions)
    if precision not in manifest.precisions:
        raise ValueError(
            f"expected a precision out of {', '.join(manifest.precisions)}, which were exported, got "
            f"{precision!r}; export the model again with the option for it"
        )
    return precision
