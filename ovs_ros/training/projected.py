"""Images as the run time sees them, kept for training the network that refines the cosines.

The encoders and the head stay frozen there, so what they give is computed once, by the very code and int8
weights that run: (n, h, w, …) arrays in files that training maps into memory.
"""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from ovs_ros.encoders.embedded import EmbeddedImageEncoder
from ovs_ros.encoders.heads import ConvexHead
from ovs_ros.training.data import resize_labels
from ovs_ros.training.head import SCALE
from ovs_ros.training.token_cache import View

GRID = (21, 28)
"""Patches of every view; views are stretched a little to fill it."""
_PATCH = 14


class Projected:
    """One folder of `write_projected`, mapped into memory.

    Attributes:
        labels: one (n, 4h, 4w) uint8 array a label map.
        source: (n,) which image a view is of.
    """

    def __init__(self, folder: Path) -> None:
        self._arrays = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r")
            for name in ("image", "patches", "hidden", "weights", "details")
        }
        self.labels = [np.load(path, mmap_mode="r") for path in sorted(folder.glob("label_*.npy"))]
        self.source = np.load(folder / "source.npy")

    def __len__(self) -> int:
        return len(self.source)

    def read(self, name: str, indices: NDArray[np.intp]) -> Tensor:
        """Some views' arrays as float32.

        Args:
            name: `image` (B, D), `patches` (B, h, w, D), `hidden` (B, h, w, C), `weights` (B, h*w, 16, 9) or
                `details` (B, h*w, 16, F).
            indices: (B,) of the views.
        """
        return torch.from_numpy(self._arrays[name][indices].astype(np.float32))


def write_projected(
    folder: Path, encoder: EmbeddedImageEncoder, views: Iterator[View], *, count: int, title: str
) -> None:
    """Encode views into `folder`.

    Args:
        folder: gets image.npy, patches.npy, hidden.npy, weights.npy and details.npy (float16), label_0.npy …
            (uint8, at four positions a patch side) and source.npy.
        encoder: the run time's, with as many patches as `GRID` has.
        views: of images and their label maps.
        count: how many views there are.
        title: for the progress bar.
    """
    rows, columns = GRID
    store: dict[str, NDArray[np.generic]] = {}
    folder.mkdir(parents=True, exist_ok=True)

    def put(name: str, index: int, value: NDArray[np.generic], kind: type) -> None:
        if name not in store:
            path = folder / f"{name}.npy"
            store[name] = np.lib.format.open_memmap(path, "w+", kind, (count, *value.shape))
        store[name][index] = value

    source = np.zeros(count, np.int32)
    for index, view in enumerate(track(views, total=count, description=title)):
        image = cv2.resize(view.image, (columns * _PATCH, rows * _PATCH), interpolation=cv2.INTER_AREA)
        features = encoder.encode(image)
        head = features.head
        assert isinstance(head, ConvexHead) and features.hidden is not None
        for name, value in (
            ("image", features.class_token),
            ("patches", features.patch_tokens),
            ("hidden", features.hidden),
            ("weights", head.weights),
            ("details", head.details),
        ):
            put(name, index, value, np.float16)
        for which, labels in enumerate(view.labels):
            put(f"label_{which}", index, resize_labels(labels, (columns * SCALE, rows * SCALE)), np.uint8)
        source[index] = view.source
    np.save(folder / "source.npy", source)


def spread(coarse: Tensor, weights: Tensor) -> Tensor:
    """Upsample patch logits as the run time does (see `encoders/heads.py`).

    Args:
        coarse: (B, M, h, w).
        weights: (B, h*w, 16, 9) convex.

    Returns:
        (B, M, 4h, 4w).
    """
    batch, words, h, w = coarse.shape
    around = F.pad(coarse, (1, 1, 1, 1), mode="replicate")
    around = F.unfold(around, 3).view(batch, words, 9, h * w)
    fine = torch.einsum("bnsk,bmkn->bmns", weights, around)  # (B, M, h*w, 16)
    fine = fine.view(batch, words, h, w, SCALE, SCALE).permute(0, 1, 2, 4, 3, 5)
    return fine.reshape(batch, words, h * SCALE, w * SCALE)


def pixel_logits(
    coarse: Tensor, weights: Tensor, details: Tensor, detail_words: Tensor, logit_scale: float
) -> Tensor:
    """Logits of all pixel positions: `spread` and the head's details.

    Args:
        coarse: (B, M, h, w) logits of patches.
        weights: (B, h*w, 16, 9); details: (B, h*w, 16, F).
        detail_words: (B, M, F), what each word asks of the details.
        logit_scale: what the details are multiplied with.

    Returns:
        (B, M, 4h, 4w).
    """
    batch, words, h, w = coarse.shape
    fine = torch.einsum("bnsf,bmf->bmns", details, detail_words) * logit_scale
    fine = fine.view(batch, words, h, w, SCALE, SCALE).permute(0, 1, 2, 4, 3, 5)
    return spread(coarse, weights) + fine.reshape(batch, words, h * SCALE, w * SCALE)
