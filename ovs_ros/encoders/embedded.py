"""The embedded model: a convolutional image encoder (see pyramid.py), MiniLM-L6, and what joins them.

`ovs train embedded` makes its files.
"""

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ovs_ros.encoders.features import ImageEncoder
from ovs_ros.encoders.minilm import SentenceEncoder
from ovs_ros.encoders.model_file import holds_embedded
from ovs_ros.encoders.multi_scale import MultiScaleImageEncoder
from ovs_ros.encoders.pyramid import PyramidImageEncoder, read_word_arrays
from ovs_ros.runtime.checksums import check_files
from ovs_ros.runtime.files import file_digest, joint_digest, read_file

MODELS = Path(__file__).parents[1] / "models"
PRESETS = {"stream": (192,), "quality": (108, 280)}
"""How many cells of 32 x 32 pixels an image is cut into at most, at each scale: for one of 640 x 480 pixels
108 gives 9 x 12, 192 gives 12 x 16, and 280 gives 14 x 20. Several scales also see the image mirrored."""
LOGIT_SCALE = 20.0
"""What the model is trained with: the inverse of the softmax temperature."""
CALIBRATION_FILE = "calibration.json"
"""In the model's folder: what `ovs temperature` fitted for each preset."""
TEXT_FILES = ("text_encoder.onnx", "text_head.npz", "tokenizer.json")
"""What words go through, in a model's folder."""
ENCODER_FILES = ("image_encoder.onnx", *TEXT_FILES)
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.05, 20.0

logger = logging.getLogger(__name__)


class EmbeddedTextEncoder(SentenceEncoder):
    """MiniLM-L6 and the words' side of the space shared with images; see `TextEncoder` for the contract.

    Args:
        models: the folder with the model's files.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged or another one.
    """

    templates: tuple[str, ...] = ("{}", "a photo of a {}", "there is a {} in the scene")
    keeps_prompts = False

    def __init__(self, models: Path = MODELS) -> None:
        super().__init__(models)
        residual = ("widen_weight", "widen_bias", "back_weight", "back_bias")
        words = read_word_arrays(models, ("weight", "bias", *residual))
        self._weight: NDArray[np.float32] = words["weight"]  # (384, D)
        self._bias: NDArray[np.float32] = words["bias"]  # (D,)
        self._residual = [words[name] for name in residual]
        digest = joint_digest([models / name for name in TEXT_FILES])
        self.dim = self._weight.shape[1]
        self.name = f"minilm-l6-int8-{digest[:12]}"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts in the space shared with images: (len(texts), D) float32, rows of unit L2 norm."""
        sentences = super().encode(texts)
        widen, widen_bias, back, back_bias = self._residual
        words = sentences @ self._weight + self._bias
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
        temperature = float(json.loads(read_file(path))[preset]["temperature"])
        if not LOWEST_TEMPERATURE <= temperature <= HIGHEST_TEMPERATURE:
            raise ValueError(f"{temperature}, not from {LOWEST_TEMPERATURE} to {HIGHEST_TEMPERATURE}")
        return temperature
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
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


def load(name: str = "stream", *, models: Path = MODELS) -> tuple[ImageEncoder, EmbeddedTextEncoder]:
    """Open the embedded pair.

    Args:
        name: "stream" (fast, the default) or "quality" (several scales).
        models: the folder with the model's files.

    Raises:
        ValueError: there is no such model, or a file is not the one that was published.
        FileNotFoundError: a model's file is missing.
    """
    if name not in PRESETS:
        raise ValueError(f"expected the model to be one of {', '.join(PRESETS)}, got {name!r}")
    check_files(models, ENCODER_FILES)
    scales = [PyramidImageEncoder(models, cells=cells) for cells in PRESETS[name]]
    image: ImageEncoder = scales[0] if len(scales) == 1 else MultiScaleImageEncoder(scales)
    return image, EmbeddedTextEncoder(models)
