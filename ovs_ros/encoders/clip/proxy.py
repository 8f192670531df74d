"""Second encoders whose patches say which patches CLIP's last layer may see (ProxyCLIP)."""

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ovs_ros.encoders.dino import DinoEncoder
from ovs_ros.encoders.embedded import MODELS
from ovs_ros.encoders.feature_map import FeatureMapEncoder
from ovs_ros.geometry.resample import resample_bilinear

EMBEDDED = "embedded"
"""What a model file calls the encoder of the embedded model."""
_LAYER = 384
"""Numbers of one layer in its tokens."""


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
    """The embedded model's ViT-S/14, its last layer.

    The image is scaled so that the ViT's patches of 14 pixels lie exactly on CLIP's; ProxyCLIP brings CLIP's
    values to the proxy's grid instead.

    Args:
        models: the folder with the embedded model's files.

    Raises:
        FileNotFoundError: a file is missing.
    """

    name = "dinov2-vits14"

    def __init__(self, models: Path = MODELS) -> None:
        positions = np.load(models / "position_table.npy", allow_pickle=False)
        self._dino = DinoEncoder(models / "image_encoder.onnx", positions)

    def features(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """See `Proxy`."""
        size = (grid[0] * DinoEncoder.patch, grid[1] * DinoEncoder.patch)
        scaled = F.interpolate(images.float(), size, mode="bilinear", antialias=True)
        last = [self._dino.tokens(pixels)[1:, -_LAYER:] for pixels in _pixels(scaled)]
        return torch.from_numpy(np.stack(last)).to(images.device)


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
