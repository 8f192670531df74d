"""The embedded model: DINOv2 ViT-S/14 and MiniLM-L6 in int8, and the project's head that joins them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ovs_ros.encoders.patches import PatchGrid, blank, fit_grid, place
from ovs_ros.encoders.protocols import DenseFeatures
from ovs_ros.encoders.resample import resample_grid
from ovs_ros.encoders.upsampling import ConvexUpsampling
from ovs_ros.runtime.onnx import open_session

MODELS = Path(__file__).parents[1] / "models"
PRESETS = {"stream": 588, "quality": 1728}
"""How many patches an image is cut into: 588 is 21 x 28, 1728 is 36 x 48."""
GUIDE = 8
"""Positions a patch side in the small RGB image that guides the head's upsampling."""
LOGIT_SCALE = 20.0
"""What the head was trained with: the inverse of the softmax temperature."""
LONGEST_TEXT = 64
TEXT_BATCH = 32


class DinoEncoder:
    """DINOv2 ViT-S/14, run by ONNX Runtime.

    Attributes:
        patch: a patch's side in pixels.
        width: numbers a token: the layers 3, 6, 9 and 12 side by side.
    """

    patch = 14
    width = 4 * 384

    def __init__(self, model: Path, positions: NDArray[np.float32], *, threads: int = 0) -> None:
        """Open the encoder.

        Args:
            model: the ONNX file.
            positions: (37, 37, 384) float32, the position table.
            threads: for one call; 0 means one for each core.

        Raises:
            FileNotFoundError: there is no such model.
        """
        self._session = open_session(model, threads=threads)
        self._table = positions
        self._positions: dict[tuple[int, int], NDArray[np.float32]] = {}

    def tokens(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode an RGB image (h*14, w*14, 3) uint8: tokens (1 + h*w, 1536) float32, the class token first."""
        grid = image.shape[0] // self.patch, image.shape[1] // self.patch
        positions = self._positions.get(grid)
        if positions is None:
            positions = resample_grid(self._table, *grid).reshape(grid[0] * grid[1], -1)
            self._positions[grid] = positions
        tokens: NDArray[np.float32] = self._session.run(None, {"image": image, "positions": positions})[0]
        return tokens


@dataclass(frozen=True)
class PreparedImage:
    """An image in its grid: `pixels` (rows*14, columns*14, 3) uint8 RGB, `guide` (rows*8, columns*8, 3) uint8."""

    pixels: NDArray[np.uint8]
    guide: NDArray[np.uint8]
    grid: PatchGrid


@dataclass(frozen=True)
class EncodedImage:
    """What the backbone gave: `tokens` (1 + rows*columns, 1536) float32, and what it was given."""

    tokens: NDArray[np.float32]
    prepared: PreparedImage


class EmbeddedImageEncoder:
    """DINOv2 and the image side of the head; see `ImageEncoder` for the methods' contract.

    Not safe to be used by two threads at once: the input image is kept between frames.
    """

    device = "cpu"
    logit_scale = LOGIT_SCALE

    def __init__(self, models: Path = MODELS, *, patches: int, threads: int = 0) -> None:
        """Open the model.

        Args:
            models: the folder with the model's files.
            patches: the most patches an image is cut into; time and detail grow with it.
            threads: for one call; 0 means one for each core.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: `patches` is not positive.
        """
        if patches < 1:
            raise ValueError(f"expected at least 1 patch, got {patches}")
        positions = np.load(models / "position_table.npy", allow_pickle=False)
        self._dino = DinoEncoder(models / "image_encoder.onnx", positions, threads=threads)
        self._head = open_session(models / "image_head.onnx", threads=threads)
        with np.load(models / "text_head.npz", allow_pickle=False) as words:
            self._detail_words: NDArray[np.float32] = words["details"]  # (D, F)
        self._patches = patches
        self._canvas: tuple[PatchGrid, NDArray[np.uint8]] | None = None
        self.dim = self._detail_words.shape[0]
        self.name = f"dinov2-vits14-int8@{patches}"

    def prepare(self, image: NDArray[np.uint8]) -> PreparedImage:
        """Scale an RGB image (H, W, 3) uint8 into its grid, without distortion."""
        grid = fit_grid(*image.shape[:2], patches=self._patches, patch=DinoEncoder.patch)
        if self._canvas is None or self._canvas[0] != grid:
            self._canvas = grid, blank(grid)
        pixels = place(image, grid, self._canvas[1])
        guide = cv2.resize(pixels, (grid.columns * GUIDE, grid.rows * GUIDE), interpolation=cv2.INTER_AREA)
        return PreparedImage(pixels, guide, grid)

    def backbone(self, prepared: PreparedImage) -> EncodedImage:
        """Run DINOv2 alone."""
        return EncodedImage(self._dino.tokens(prepared.pixels), prepared)

    def project(self, features: EncodedImage) -> DenseFeatures:
        """Run the head."""
        grid = features.prepared.grid
        image, patches, weights, details = self._head.run(
            None, {"tokens": features.tokens, "guide": features.prepared.guide}
        )
        shape = (grid.rows, grid.columns)
        laid = patches.reshape(*shape, -1)
        return DenseFeatures(
            image=image[0],
            patches=laid,
            upsampling=ConvexUpsampling(laid, weights, details, self._detail_words),
            extent=grid.extent,
        )


class EmbeddedTextEncoder:
    """MiniLM-L6 and the words' side of the head; see `TextEncoder` for the contract."""

    templates = ("{}", "a photo of a {}", "there is a {} in the scene")

    def __init__(self, models: Path = MODELS, *, threads: int = 0) -> None:
        """Open the model.

        Args:
            models: the folder with the model's files.
            threads: for one call; 0 means one for each core.

        Raises:
            FileNotFoundError: a file is missing.
        """
        self._session = open_session(models / "text_encoder.onnx", threads=threads)
        self._tokenizer = Tokenizer.from_file(str(models / "tokenizer.json"))
        self._tokenizer.enable_truncation(LONGEST_TEXT)
        self._tokenizer.enable_padding()
        with np.load(models / "text_head.npz", allow_pickle=False) as words:
            self._weight: NDArray[np.float32] = words["weight"]  # (384, D)
            self._bias: NDArray[np.float32] = words["bias"]  # (D,)
        digest = hashlib.sha256()
        for file in ("text_encoder.onnx", "text_head.npz", "tokenizer.json"):
            digest.update((models / file).read_bytes())
        self.dim = self._weight.shape[1]
        self.name = f"minilm-l6-int8-{digest.hexdigest()[:12]}"

    def sentences(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts as all-MiniLM-L6-v2 does: (len(texts), 384) float32, rows of unit L2 norm."""
        out = np.empty((len(texts), self._weight.shape[0]), np.float32)
        # Texts of one length share a batch, so that little of it is padding.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(order), TEXT_BATCH):
            batch = order[start : start + TEXT_BATCH]
            encoded = self._tokenizer.encode_batch([texts[i] for i in batch])
            ids = np.array([e.ids for e in encoded], np.int64)  # (B, L)
            mask = np.array([e.attention_mask for e in encoded], np.int32)  # (B, L)
            out[batch] = self._session.run(None, {"ids": ids, "mask": mask})[0]
        return out

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts in the space shared with images: (len(texts), D) float32, rows of unit L2 norm."""
        words = self.sentences(texts) @ self._weight + self._bias
        words /= np.linalg.norm(words, axis=1, keepdims=True)
        return words


def load(preset: str = "stream", *, models: Path = MODELS, threads: int = 0) -> tuple[EmbeddedImageEncoder, EmbeddedTextEncoder]:
    """Open the embedded pair.

    Args:
        preset: "stream" (fast, the default) or "quality".
        models: the folder with the model's files.
        threads: for one call; 0 means one for each core.

    Raises:
        ValueError: there is no such preset.
        FileNotFoundError: a model's file is missing.
    """
    if preset not in PRESETS:
        raise ValueError(f"expected a preset out of {', '.join(PRESETS)}, got {preset!r}")
    image = EmbeddedImageEncoder(models, patches=PRESETS[preset], threads=threads)
    return image, EmbeddedTextEncoder(models, threads=threads)
