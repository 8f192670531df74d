"""Second encoders whose patches say which patches CLIP's last layer may see (ProxyCLIP)."""

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ovs_ros.encoders.embedded import MODELS
from ovs_ros.encoders.feature_map import FeatureMapEncoder
from ovs_ros.encoders.patches import IMAGENET_MEAN_RGB
from ovs_ros.encoders.pyramid import CELL, NAME_KEY
from ovs_ros.geometry.resample import resample_bilinear
from ovs_ros.runtime.files import file_digest
from ovs_ros.runtime.onnx import open_session

EMBEDDED = "embedded"
"""What a model file calls the encoder of the embedded model."""
_STRIDE = CELL // 2
"""Pixels from one of its pooled embeddings to the next."""


class Proxy(Protocol):
    """An encoder that runs outside of torch, on the CPU.

    A model with a proxy copies the image to the CPU and waits, so that no CUDA graph can hold it.
    """

    name: str

    def features(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Features on CLIP's own grid.

        Args:
            images: (B, 3, H, W) RGB in 0 to 1.
            grid: (rows, columns) of CLIP's patches.

        Returns:
            (B, rows * columns, C) float32 on the images' device.
        """


class EmbeddedProxy:
    """The embedded model's embeddings, the means over 16 x 16 pixels.

    The image is scaled so that these lie exactly on CLIP's patches; ProxyCLIP brings CLIP's values to the
    proxy's grid instead.

    Args:
        models: the folder with the embedded model's files.

    Raises:
        FileNotFoundError: a file is missing.
    """

    def __init__(self, models: Path = MODELS) -> None:
        self._session = open_session(path := models / "image_encoder.onnx")
        name = self._session.get_modelmeta().custom_metadata_map[NAME_KEY]
        self.name = f"{name}-{file_digest(path)[:8]}"
        self._dim = self._session.get_outputs()[0].shape[1]  # Of the embedding of the image, (1, D).

    def features(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """See `Proxy`."""
        rows, columns = grid
        height, width = rows * _STRIDE, columns * _STRIDE
        scaled = F.interpolate(images.float(), (height, width), mode="bilinear", antialias=True)
        # Whole cells, of 2 x 2 embeddings.
        canvas = np.empty((len(images), -(-height // CELL) * CELL, -(-width // CELL) * CELL, 3), np.uint8)
        canvas[:] = IMAGENET_MEAN_RGB
        canvas[:, :height, :width] = _pixels(scaled)
        found = [self._session.run(["pooled"], {"pixels": pixels})[0] for pixels in canvas]
        maps = np.stack(found).reshape(
            len(images), canvas.shape[1] // _STRIDE, canvas.shape[2] // _STRIDE, -1
        )
        return torch.from_numpy(maps[:, :rows, :columns]).flatten(1, 2).to(images.device)


class FileProxy:
    """Any image encoder in an ONNX file (see `FeatureMapEncoder`); its map is resampled to CLIP's grid."""

    def __init__(self, model: Path) -> None:
        self._encoder = FeatureMapEncoder(model)
        self.name = f"{self._encoder.name}-{self._encoder.digest[:12]}"

    def features(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """See `Proxy`."""
        found = [self._encoder.encode(pixels) for pixels in _pixels(images)]
        maps = [resample_bilinear(one.values, grid, one.valid, (1.0, 1.0)) for one in found]
        return torch.from_numpy(np.stack(maps)).flatten(1, 2).to(images.device)


def open_proxy(proxy: str) -> Proxy:
    """Open what a model file names as `proxy`: 'embedded' or an ONNX file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no encoder that can serve.
    """
    return EmbeddedProxy() if proxy == EMBEDDED else FileProxy(Path(proxy))


def _pixels(images: Tensor) -> NDArray[np.uint8]:
    """(B, 3, H, W) in 0 to 1 to (B, H, W, 3) uint8 on the CPU.

    Raises:
        RuntimeError: a graph is being captured or exported, which cannot hold what runs outside of torch.
    """
    capturing = images.is_cuda and torch.cuda.is_current_stream_capturing()
    if capturing or torch.compiler.is_compiling():
        raise RuntimeError("proxyclip's second encoder runs outside of torch and cannot be part of a graph")
    scaled = (images.float() * 255).round_().clamp_(0, 255).to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).contiguous().cpu().numpy()
