"""Small dense models of torch with random weights: one layer of attention, no checkpoint."""

from collections.abc import Iterator, Sequence
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[clip]')")

from torch import Tensor, nn  # noqa: E402
from torch.nn.functional import interpolate, normalize  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from ovs_ros.encoders.clip.dense_model import DenseModel, TorchFeatures  # noqa: E402


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """For modules that import it: models this small only wait for threads, long on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class TinyDense(DenseModel):
    """Patches of 16 pixels, one layer of attention over them, 24 dimensions.

    Attributes:
        batches: the shape of each batch of images that it was given.
        most_pixels: the most pixels of a batch that its pretended memory holds; None: any number.
    """

    name = "tiny"
    dim = 24
    stride = 16
    logit_scale = 30.0
    mean = (0.48, 0.46, 0.41)
    std = (0.27, 0.26, 0.28)

    def __init__(self, seed: int = 0, most_pixels: int | None = None) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embed = nn.Conv2d(3, 32, self.stride, self.stride)
            self.norm = nn.LayerNorm(32)
            self.attention = nn.MultiheadAttention(32, 2, batch_first=True)
            self.head = nn.Parameter(torch.randn(32, self.dim))
            self.words = nn.Linear(16, self.dim)
        self.requires_grad_(False)
        self.batches: list[tuple[int, ...]] = []
        self.most_pixels = most_pixels

    def dense(self, images: Tensor) -> TorchFeatures:
        """See `DenseModel`."""
        self.batches.append(tuple(images.shape))
        if self.most_pixels is not None and images[:, 0].numel() > self.most_pixels:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        grid = self.embed(images)  # (B, 32, h, w)
        tokens = self.norm(grid.flatten(2).transpose(1, 2))
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        patches = normalize(tokens @ self.head, dim=2)  # (B, h*w, 24)
        image = normalize(patches.mean(1), dim=1)
        return TorchFeatures(patches.unflatten(1, grid.shape[2:]), image)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """See `DenseModel`."""
        seeds = torch.tensor([[crc32(f"{text}{i}".encode()) % 997 for i in range(16)] for text in texts])
        return normalize(self.words(seeds.float() / 498.5 - 1), dim=1)


class TinyDecoding(TinyDense):
    """Decodes to twice the patches' grid: cosines upsampled bilinearly, plus the mean of `decoding`."""

    decodes = True
    decode_scale = 2

    def dense(self, images: Tensor) -> TorchFeatures:
        """See `DenseModel`."""
        plain = super().dense(images)
        return TorchFeatures(plain.patches, plain.image, (images.mean(1),))

    def decode(self, features: TorchFeatures, words: Tensor) -> Tensor:
        """See `DenseModel`."""
        assert len(features.patches) == 1
        logits = torch.einsum("hwd,md->mhw", features.patches[0].float(), words.mean(1)) * self.logit_scale
        return interpolate(logits[None], scale_factor=2, mode="bilinear")[0] + features.decoding[0].mean()


class NoWaiting(TorchDispatchMode):
    """Refuses what makes a GPU's answer depend on values, and so makes the program wait for them."""

    WAITING = {
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "bincount",
        "equal",
        "_unique2",
        "is_nonzero",
    }

    def __torch_dispatch__(
        self,
        func: Any,
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        name = func.overloadpacket.__name__
        assert name not in self.WAITING, f"{name} waits for the device"
        if name in ("index", "index_put_", "index_put"):
            masks = [index for index in args[1] if index is not None and index.dtype == torch.bool]
            assert not masks, f"{name} with a mask waits for the device"
        return func(*args, **(kwargs or {}))


def noise_image(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Blotches of colour: (height, width, 3) uint8 RGB."""
    cells = np.random.default_rng(seed).integers(0, 256, (-(-height // 24), -(-width // 24), 3), np.uint8)
    return np.ascontiguousarray(np.kron(cells, np.ones((24, 24, 1), np.uint8))[:height, :width])
