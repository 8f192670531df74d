"""The embedded model: an image encoder, MiniLM-L6, and what joins them.

The shipped one encodes images by DINOv2 ViT-S/14 and a head of the project's; `ovs train embedded` writes one
with a convolutional network (see pyramid.py). A folder's files tell which it is.
"""

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ovs_ros.encoders.dino import DinoEncoder
from ovs_ros.encoders.features import Features, ImageEncoder
from ovs_ros.encoders.heads import ConvexHead
from ovs_ros.encoders.minilm import SentenceEncoder
from ovs_ros.encoders.model_file import holds_embedded
from ovs_ros.encoders.multi_scale import MultiScaleImageEncoder
from ovs_ros.encoders.patches import PatchGrid, blank, fit_grid, place
from ovs_ros.encoders.pyramid import PRESETS as PYRAMID_PRESETS
from ovs_ros.encoders.pyramid import PyramidImageEncoder
from ovs_ros.runtime.files import file_digest
from ovs_ros.runtime.onnx import open_session
from ovs_ros.runtime.stage_clock import StageClock

MODELS = Path(__file__).parents[1] / "models"
PRESETS = {"stream": (540,), "quality": (432, 768, 1350)}
"""How many patches an image is cut into at most, at each scale: for one of 640 x 480 pixels 540 gives
20 x 27, 432 gives 18 x 24, 768 gives 24 x 32 and 1350 gives 32 x 42."""
GUIDE = 8
"""Positions a patch side in the small RGB image that guides the head's upsampling."""
LOGIT_SCALE = 20.0
"""What the head was trained with: the inverse of the softmax temperature."""
CALIBRATION_FILE = "calibration.json"
"""In the model's folder: what `ovs temperature` fitted for each preset."""
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.05, 20.0

logger = logging.getLogger(__name__)


class EmbeddedImageEncoder:
    """DINOv2 and the image side of the head; see `ImageEncoder` for the contract.

    Not safe to be used by two threads at once: the input image is kept between frames.

    Args:
        models: the folder with the model's files.
        patches: the most patches an image is cut into; time and detail grow with it.

    Raises:
        FileNotFoundError: a file is missing.
    """

    device = "cpu"
    logit_scale = LOGIT_SCALE

    def __init__(self, models: Path = MODELS, *, patches: int) -> None:
        positions = np.load(models / "position_table.npy", allow_pickle=False)
        self._dino = DinoEncoder(models / "image_encoder.onnx", positions)
        self._head = open_session(models / "image_head.onnx")
        with np.load(models / "text_head.npz", allow_pickle=False) as words:
            self._detail_words: NDArray[np.float32] = words["details"]  # (D, F)
        self._patches = patches
        self._canvas: tuple[PatchGrid, NDArray[np.uint8]] | None = None
        self.dim = self._detail_words.shape[0]
        self.name = f"dinov2-vits14-int8@{patches}"

    def encode(self, image: NDArray[np.uint8]) -> Features:
        """Encode an RGB image (H, W, 3) uint8, scaled into its patch grid without distortion."""
        clock = StageClock()
        grid = fit_grid(*image.shape[:2], patches=self._patches, patch=DinoEncoder.patch)
        if self._canvas is None or self._canvas[0] != grid:
            self._canvas = grid, blank(grid)
        pixels = place(image, grid, self._canvas[1])
        guide = cv2.resize(pixels, (grid.columns * GUIDE, grid.rows * GUIDE), interpolation=cv2.INTER_AREA)
        clock.stage("prepare")
        tokens = self._dino.tokens(pixels)  # (1 + rows*columns, 1536)
        clock.stage("encode")
        class_token, patches, weights, details, hidden = self._head.run(
            None, {"tokens": tokens, "guide": guide}
        )
        shape = grid.rows, grid.columns
        patch_tokens = patches.reshape(*shape, -1)
        features = Features(
            class_token=class_token[0],
            patch_tokens=patch_tokens,
            head=ConvexHead(patch_tokens, weights, details, self._detail_words, self.logit_scale),
            valid=grid.valid,
            logit_scale=self.logit_scale,
            hidden=hidden.reshape(*shape, -1),
            stages_ms=clock.stages_ms,
        )
        clock.stage("project")
        return features


class EmbeddedTextEncoder(SentenceEncoder):
    """MiniLM-L6 and the words' side of the head; see `TextEncoder` for the contract.

    Args:
        models: the folder with the model's files.

    Raises:
        FileNotFoundError: a file is missing.
    """

    templates: tuple[str, ...] = ("{}", "a photo of a {}", "there is a {} in the scene")
    keeps_prompts = False

    def __init__(self, models: Path = MODELS) -> None:
        super().__init__(models)
        with np.load(models / "text_head.npz", allow_pickle=False) as words:
            self._weight: NDArray[np.float32] = words["weight"]  # (384, D)
            self._bias: NDArray[np.float32] = words["bias"]  # (D,)
            residual = ("widen_weight", "widen_bias", "back_weight", "back_bias")
            self._residual = [words[name] for name in residual if name in words]
        digest = hashlib.sha256()
        for file in ("text_encoder.onnx", "text_head.npz", "tokenizer.json"):
            digest.update((models / file).read_bytes())
        self.dim = self._weight.shape[1]
        self.name = f"minilm-l6-int8-{digest.hexdigest()[:12]}"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts in the space shared with images: (len(texts), D) float32, rows of unit L2 norm."""
        sentences = super().encode(texts)
        words = sentences @ self._weight + self._bias
        if self._residual:
            widen, widen_bias, back, back_bias = self._residual
            words += _gelu(sentences @ widen + widen_bias) @ back + back_bias
        words /= np.linalg.norm(words, axis=1, keepdims=True)
        return words


def _gelu(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """GELU in its form with tanh (Hendrycks and Gimpel 2016)."""
    inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x**3)
    out: NDArray[np.float32] = np.float32(0.5) * x * (1 + np.tanh(inner))
    return out


def load_temperature(preset: str, models: Path) -> float:
    """The fitted temperature of a preset; 1, with a warning, in a folder where none was fitted yet.

    Raises:
        ValueError: the folder's file cannot be read or has no usable temperature for the preset.
    """
    path = models / CALIBRATION_FILE
    if not path.exists():
        logger.warning("Confidences are not calibrated: there is no %s; fit it with 'ovs temperature'", path)
        return 1.0
    try:
        temperature = float(json.loads(path.read_text(encoding="utf-8"))[preset]["temperature"])
        if not LOWEST_TEMPERATURE <= temperature <= HIGHEST_TEMPERATURE:
            raise ValueError(f"{temperature}, not from {LOWEST_TEMPERATURE} to {HIGHEST_TEMPERATURE}")
        return temperature
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"expected the temperature of the model {preset} in {path}, got {error!r}; fit it with "
            "'ovs temperature' or reinstall ovs_ros"
        ) from error


def is_embedded_model(folder: Path) -> bool:
    """Whether a folder holds the files of an embedded model, as `ovs train` writes them."""
    return holds_embedded(folder)


def digest(folder: Path, text: EmbeddedTextEncoder) -> str:
    """Identifies the weights of both encoders in a model's folder, of which `text` is one."""
    both = file_digest(folder / "image_encoder.onnx") + text.name
    return hashlib.sha256(both.encode()).hexdigest()[:12]


def has_image_head(folder: Path) -> bool:
    """Whether a folder's model is the one over DINOv2, which has a coarse-to-fine network beside it."""
    return (folder / "image_head.onnx").is_file()


def load(name: str = "stream", *, models: Path = MODELS) -> tuple[ImageEncoder, EmbeddedTextEncoder]:
    """Open the embedded pair.

    Args:
        name: "stream" (fast, the default) or "quality" (several scales).
        models: the folder with the model's files.

    Raises:
        ValueError: there is no such model.
        FileNotFoundError: a model's file is missing.
    """
    if name not in PRESETS:
        raise ValueError(f"expected the model to be one of {', '.join(PRESETS)}, got {name!r}")
    scales: list[ImageEncoder]
    if has_image_head(models):
        scales = [EmbeddedImageEncoder(models, patches=patches) for patches in PRESETS[name]]
    else:
        scales = [PyramidImageEncoder(models, cells=cells) for cells in PYRAMID_PRESETS[name]]
    image = scales[0] if len(scales) == 1 else MultiScaleImageEncoder(scales)
    return image, EmbeddedTextEncoder(models)
