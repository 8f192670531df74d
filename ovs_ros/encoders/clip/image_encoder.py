"""Any torch model behind the numpy protocol of an image encoder."""

import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from ovs_ros.encoders.clip.dense_model import DenseModel, TorchFeatures
from ovs_ros.encoders.clip.sliding_windows import Windows, crops, lay_windows, merge
from ovs_ros.encoders.features import Features
from ovs_ros.encoders.heads import Array, CosineHead, DecoderHead, Head, Words
from ovs_ros.encoders.model_file import ModelFile
from ovs_ros.encoders.patches import PatchGrid, fit_grid, place
from ovs_ros.runtime.stage_clock import StageClock
from ovs_ros.runtime.torch_device import (
    MOVING,
    cast_matrices,
    computing,
    is_out_of_memory,
    resolve_device,
    resolve_precision,
)
from ovs_ros.runtime.torch_graph import StaticCall, time_call

T = TypeVar("T")
LOG = logging.getLogger(__name__)
FEWEST_PATCHES = 64
"""With fewer patches an image is too coarse; the CPU takes over instead."""
BATCHES = (8, 4, 2, 1)
"""How many images go through the network at once: few numbers, as each costs buffers and a CUDA graph."""
_GRIDS = 4
"""For how many grids of images buffers and CUDA graphs are kept."""
_PROBE = 8
"""Rows and columns of patches in the image that shows which weights the image's side uses."""


@dataclass(frozen=True)
class Footprint:
    """What decides how much memory a frame takes.

    Attributes:
        device: where the model runs.
        patches: how many patches an image is cut into at most.
        batches: whether several images run as one batch; else one by one.
        together: whether all windows of an image run as one batch; else one by one.
    """

    device: torch.device
    patches: int
    batches: bool = True
    together: bool = True

    def smaller(self, windows: int, configured: int, images: int = 1) -> "Footprint | None":
        """The next one to try when memory is full; None where there is none.

        First images run one by one, then windows, then patches are halved, and below `FEWEST_PATCHES` the
        CPU takes over, with as many patches as configured.

        Args:
            windows: how many windows an image has now.
            configured: how many patches the user asked for.
            images: how many images ran at once.
        """
        if self.batches and images > 1:
            return replace(self, batches=False)
        if self.together and windows > 1:
            return replace(self, together=False)
        if self.patches // 2 >= FEWEST_PATCHES:
            return replace(self, patches=self.patches // 2)
        if self.device.type != "cpu":
            return Footprint(torch.device("cpu"), configured)
        return None


@dataclass(frozen=True, eq=False)
class EncodedBuffers:
    """What the device computes of B images, in buffers that the next B images of their grid overwrite.

    Attributes:
        embeddings: (B, h*w + 1, D) float32 unit rows: the patches row by row, then the whole image.
        windows: the features of each window, as the model gave them, the images of each window together.
    """

    embeddings: Tensor
    windows: TorchFeatures


@dataclass(frozen=True, eq=False)
class ShapeBuffers:
    """What is kept for B images of one grid.

    Attributes:
        grid, windows: how an image and its windows lie.
        canvas: (B, rows*stride, columns*stride, 3) uint8 RGB, pinned beside a GPU; padding is filled.
        pixels: the same on the device, padding too; the canvas itself on a CPU.
        encode: from `pixels` to the embeddings.
    """

    grid: PatchGrid
    windows: Windows
    canvas: Tensor
    pixels: Tensor
    encode: StaticCall[EncodedBuffers]


class TorchImageEncoder:
    """Dense features of a torch model; see `ResizableEncoder` for the contract.

    On a GPU the network is one CUDA graph for each grid and number of images, and frames travel from and to
    pinned memory. When memory is full the encoder falls back to less (see `Footprint`) and lists it in
    `fallbacks`.

    Not safe to be used by two threads at once. Features of models that decode are good until the next frame.

    Attributes:
        name: the model, the patches that an image has at most, the windows' side, and the precision.
        device: where it runs now: 'cpu', 'cuda:0', …
        model: on its device and in its precision.
        footprint: device and resolution now.
        dtype: of matrix products now.
        fallbacks: what the encoder gave up when memory was full, one line a step.

    Args:
        model: taken over: moved and cast.
        patches: how many patches an image is cut into at most.
        device: 'auto', 'cpu', 'cuda' or 'cuda:N' (see `resolve_device`).
        precision: 'auto', 'fp32', 'fp16' or 'bf16' (see `resolve_precision`).
        window: side of sliding windows in pixels, rounded up to whole patches; 0: one pass over the image.
        stride: from one window to the next in pixels, rounded down to whole patches; 0: half a window.
        batches_on_cpu: put images together on a CPU too, which saves nothing there; to compare the two.

    Raises:
        ValueError: a setting is out of its range, or the device is missing.
    """

    def __init__(
        self,
        model: DenseModel,
        *,
        patches: int,
        device: str = "auto",
        precision: str = "auto",
        window: int = 0,
        stride: int = 0,
        batches_on_cpu: bool = False,
    ) -> None:
        if patches < 1 or window < 0 or stride < 0:
            raise ValueError(
                "expected at least 1 patch, and a window and a stride of at least 0 pixels, got "
                f"{patches}, {window} and {stride}"
            )
        if stride > window:
            raise ValueError(f"expected a stride of at most the window's {window} pixels, got {stride}")
        self.dim, self.logit_scale = model.dim, model.logit_scale
        self.fallbacks: list[str] = []
        self.model = model.eval().requires_grad_(False)
        self._configured = self._most = patches
        self._precision = precision
        self._window = math.ceil(window / model.stride)
        self._stride = max(1, (stride // model.stride) if stride else self._window // 2)
        self._batches_on_cpu = batches_on_cpu
        self._kept: OrderedDict[PatchGrid, dict[int, ShapeBuffers]] = OrderedDict()
        self.footprint = Footprint(resolve_device(device), patches)
        self._settle()

    @classmethod
    def of(cls, model: DenseModel, file: ModelFile) -> "TorchImageEncoder":
        """A model's encoder with the settings of its model file."""
        window, stride = (0, 0) if model.cuts_windows else (file.window, file.stride)
        return cls(
            model,
            patches=file.patches,
            device=file.device,
            precision=file.precision,
            window=window,
            stride=stride,
        )

    @property
    def patches(self) -> int:
        """How many patches an image is cut into at most now; 0 for a model that resizes images itself."""
        return 0 if self.model.cuts_windows else self.footprint.patches

    def resize(self, patches: int) -> None:
        """See `ResizableEncoder.resize`; never above what a memory fallback has left."""
        patches = max(1, min(patches, self._most))
        if patches != self.footprint.patches:
            self.footprint = replace(self.footprint, patches=patches)
            self._kept.clear()

    def encode(self, image: NDArray[np.uint8]) -> Features:
        """Encode an RGB image (H, W, 3) uint8, scaled into its grid without distortion.

        Raises:
            RuntimeError: the device fails, or its memory is too small even for the last fallback.
        """
        return next(self.encode_batch([image]))[1]

    def encode_batch(self, images: Sequence[NDArray[np.uint8]]) -> Iterator[tuple[int, Features]]:
        """Encode images; on a GPU those of one grid together. See `encode` for arguments and errors.

        Yields:
            (index, features) of each image, in any order. The stages of images that ran together are those of
            all of them. Features of models that decode are good until the next are asked for.
        """
        left, clock = list(range(len(images))), StageClock()
        while left:
            first, *others = left
            size, grid = images[first].shape[:2], self._grid(*images[first].shape[:2])
            alike = [first, *(i for i in others if self._grid(*images[i].shape[:2]) == grid)]
            shape = self.buffers(size[0], size[1], self.batch_size(len(alike)))
            chosen = alike[: len(shape.canvas)]
            self.wait()  # A frame that nobody fetched may still read the canvas.
            for i, canvas in zip(chosen, shape.canvas.numpy(), strict=True):
                place(images[i], shape.grid, canvas)
            clock.stage("prepare")
            try:
                self.upload(shape)
                buffers = shape.encode()
                embeddings = self.fetch(buffers.embeddings)  # (B, h*w + 1, D)
            except RuntimeError as error:
                full = is_out_of_memory(error)
                if not full or not self.fall_back(len(shape.windows.corners), len(chosen)):
                    raise
                continue
            clock.stage("encode")
            for number, i in enumerate(chosen):
                windows = _of_image(buffers.windows, number, len(chosen))
                yield i, self._features(embeddings[number], shape, windows, clock.stages_ms)
            left, clock = [i for i in left if i not in chosen], StageClock()

    @property
    def most_at_once(self) -> int:
        """How many images run as one batch at most; 1 where that saves no time, or memory was full."""
        gains = self.stream is not None or self._batches_on_cpu
        return BATCHES[0] if gains and self.footprint.batches else 1

    def batch_size(self, count: int) -> int:
        """How many of `count` images, at least one, run as the next batch."""
        return next(size for size in BATCHES if size <= min(count, self.most_at_once))

    def _features(
        self, embeddings: Array, shape: ShapeBuffers, windows: TorchFeatures, stages_ms: dict[str, float]
    ) -> Features:
        """The features of one image.

        Args:
            embeddings: (h*w + 1, D).
            shape: how it lies.
            windows: of its windows.
            stages_ms: copied.
        """
        patch_tokens = embeddings[:-1].reshape(shape.grid.rows, shape.grid.columns, -1)
        head: Head = CosineHead(patch_tokens, self.logit_scale)
        if self.model.decodes:
            scale = self.model.decode_scale
            head = DecoderHead(
                self.model.name,
                (shape.grid.rows * scale, shape.grid.columns * scale),
                lambda words: self._decode(words, windows, shape.windows, patch_tokens),
            )
        return Features(
            class_token=embeddings[-1],
            patch_tokens=patch_tokens,
            head=head,
            valid=shape.grid.valid,
            logit_scale=self.logit_scale,
            stages_ms=dict(stages_ms),
        )

    def _decode(self, prompts: Words, features: TorchFeatures, windows: Windows, patches: Array) -> Array:
        """Logits (rows, columns, M) of words (M, P, D) by the model's own decoder.

        Where memory is full, this frame goes by the cosines of the patches (h, w, D), on their grid.
        """
        try:
            with torch.cuda.stream(self.stream), computing(self.footprint.device, self.dtype):
                # All words' prompts are a view that may not be written, which torch does not know.
                words = torch.from_numpy(np.require(prompts, requirements="W"))
                words = words.to(self.footprint.device).float()
                logits = torch.stack(
                    [self._decode_window(features, i, words, windows) for i in range(len(windows.corners))]
                )
                merged = merge(logits, windows, self.model.decode_scale).contiguous()
            return self.fetch(merged)
        except RuntimeError as error:
            if not is_out_of_memory(error) or not self.fall_back(len(windows.corners)):
                raise
            return CosineHead(patches, self.logit_scale).logits(prompts.mean(axis=1, dtype=np.float32))

    def _decode_window(self, features: TorchFeatures, number: int, words: Tensor, windows: Windows) -> Tensor:
        """(height*scale, width*scale, M) float32 logits of one window."""
        one, scale = slice(number, number + 1), self.model.decode_scale
        decoding = tuple(tensor[one] for tensor in features.decoding)
        given = TorchFeatures(features.patches[one], features.image[one], decoding)
        logits = self.model.decode(given, words).float()  # (M, h', w')
        size = windows.height * scale, windows.width * scale
        if logits.shape[1:] != size:
            logits = interpolate(logits[None], size, mode="bilinear", align_corners=False)[0]
        return logits.permute(1, 2, 0)

    def upload(self, shape: ShapeBuffers) -> None:
        """Copy a frame from the canvas to where the model reads it; not waited for."""
        if self.stream is not None:
            with torch.cuda.stream(self.stream):
                shape.pixels.copy_(shape.canvas, non_blocking=True)

    def wait(self) -> None:
        """Wait until the device has finished."""
        if self.stream is not None:
            self.stream.synchronize()

    def fetch(self, values: Tensor) -> NDArray[Any]:
        """A tensor of the device as an array of its own; waits for the device."""
        if self.stream is None:
            return values.numpy()
        with torch.cuda.stream(self.stream):
            # torch keeps pinned memory that arrays have left, so that this costs no allocation.
            pinned = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            pinned.copy_(values, non_blocking=True)
        self.wait()
        return pinned.numpy()

    def fall_back(self, windows: int, images: int = 1) -> bool:
        """Memory fallback: take the next smaller footprint and say so. False: there is none.

        Args:
            windows: how many windows an image has that it was full with.
            images: how many images ran at once.
        """
        before, smaller = self.footprint, self.footprint.smaller(windows, self._configured, images)
        if smaller is None:
            return False
        self.footprint = smaller
        if (smaller.device, smaller.patches) != (before.device, before.patches):
            self._most = smaller.patches
        self._kept.clear()
        self._describe()
        if smaller.device != before.device:
            self._settle()
            step = f"runs on {smaller.device} with {smaller.patches} patches"
        elif smaller.patches != before.patches:
            step = f"cuts images into {smaller.patches} patches in place of {before.patches}"
        elif smaller.together != before.together:
            step = "runs windows one by one"
        else:
            step = "runs images one by one"
        if before.device.type == "cuda":
            torch.cuda.empty_cache()
        self.report_fallback(f"{step}, because the memory of {before.device} was full")
        return True

    def static_call(self, function: Callable[[], T]) -> StaticCall[T]:
        """A call over buffers that begins with the model: a CUDA graph where the model can be one."""
        return StaticCall(function, self.stream, self.report_fallback, capture=self.model.capturable)

    def report_fallback(self, text: str) -> None:
        """Say something once, in `fallbacks` and in the log."""
        if text not in self.fallbacks:
            self.fallbacks.append(text)
            LOG.warning("%s %s", self.model.name, text)

    def time_batch(self, image: NDArray[np.uint8], batch: int, runs: int) -> list[float]:
        """Milliseconds of each run of the network over copies of an image at once, after a warm-up.

        Each image is encoded in one pass, uploads left out; on a GPU as one CUDA graph.

        Args:
            image: (H, W, 3) uint8 RGB.
            batch: how many copies.
            runs: how many runs.
        """
        shape = self.buffers(image.shape[0], image.shape[1])
        place(image, shape.grid, shape.canvas.numpy()[0])
        pixels = shape.canvas.expand(batch, -1, -1, -1).to(self.footprint.device)

        def dense() -> TorchFeatures:
            with computing(self.footprint.device, self.dtype):
                return self.model.dense(self._normalised(pixels))

        call = self.static_call(dense)
        call()
        self.wait()
        return [time_call(call, self.stream) for _ in range(runs)]

    def _settle(self) -> None:
        """Bring the model to the footprint's device, in the precision that suits it."""
        device = self.footprint.device
        self.dtype = resolve_precision(self._precision, device)
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        try:
            with MOVING:
                self._move(device)
        except RuntimeError as error:
            if device.type == "cpu" or not is_out_of_memory(error):
                raise
            self.footprint = Footprint(torch.device("cpu"), self._configured)
            self._settle()
            self.report_fallback(f"runs on cpu, because the weights do not fit into the memory of {device}")
            return
        mean, std = (
            torch.tensor(values, device=device).reshape(1, 3, 1, 1)
            for values in (self.model.mean, self.model.std)
        )
        self._scale, self._shift = 1 / (255 * std), -mean / std
        if self.stream is not None:
            torch.cuda.synchronize(device)
        self._describe()

    def _move(self, device: torch.device) -> None:
        # A model that was cast for another device comes back to float32, rounded as it is.
        self.model.to(device, torch.float32, memory_format=torch.channels_last)
        if self.dtype != torch.float32:
            side = _PROBE * self.model.stride
            probe = torch.zeros((1, 3, side, side), device=device)
            cast_matrices(self.model, self.dtype, lambda: self.model.dense(probe))

    def _describe(self) -> None:
        window = f"w{self._window * self.model.stride}" if self._window else ""
        precision = str(self.dtype).removeprefix("torch.")
        self.name = f"{self.model.name}@{self.footprint.patches}{window}-{precision}"
        self.device = str(self.footprint.device)

    def buffers(self, height: int, width: int, images: int = 1) -> ShapeBuffers:
        """What is kept for images of this height and width, made anew if need be.

        Args:
            height, width: of the images.
            images: how many; the buffers are for one where memory is full.
        """
        grid = self._grid(height, width)
        kept = self._kept.setdefault(grid, {})
        self._kept.move_to_end(grid)
        if len(self._kept) > _GRIDS:
            self._kept.popitem(last=False)
        if images not in kept:
            try:
                kept[images] = self._make_buffers(grid, images)
            except RuntimeError as error:
                if not is_out_of_memory(error) or not self.fall_back(1, images):
                    raise
                return self.buffers(height, width)
        return kept[images]

    def _grid(self, height: int, width: int) -> PatchGrid:
        return fit_grid(height, width, patches=self.footprint.patches, patch=self.model.stride)

    def _make_buffers(self, grid: PatchGrid, images: int) -> ShapeBuffers:
        model = self.model
        windows = lay_windows(grid.rows, grid.columns, self._window, self._stride)
        canvas = torch.empty(
            (images, grid.rows * grid.patch, grid.columns * grid.patch, 3),
            dtype=torch.uint8,
            pin_memory=self.stream is not None,
        )
        canvas[:] = torch.tensor([round(255 * mean) for mean in model.mean], dtype=torch.uint8)
        pixels = canvas if self.stream is None else canvas.to(self.footprint.device)
        encode = self.static_call(lambda: self.forward(pixels, windows))
        return ShapeBuffers(grid, windows, canvas, pixels, encode)

    def _normalised(self, pixels: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 RGB to what the model takes: (B, 3, H, W) in its precision."""
        images = pixels.permute(0, 3, 1, 2).to(torch.float32)  # in channels last, as it lies in memory
        return torch.addcmul(self._shift, images, self._scale).to(self.dtype)

    def forward(self, pixels: Tensor, windows: Windows) -> EncodedBuffers:
        """The device's part of B frames, without waiting for it.

        Args:
            pixels: (B, rows*stride, columns*stride, 3) uint8 RGB on the device.
            windows: how each image is cut into W windows.
        """
        images = range(len(pixels))
        with computing(self.footprint.device, self.dtype):
            batch = crops(self._normalised(pixels), windows, self.model.stride)  # (W*B, 3, H, W)
            features = _joined(
                [self.model.dense(part) for part in batch.split(len(batch) if self.footprint.together else 1)]
            )
            seen = features.patches.float()
            patches = torch.stack([merge(seen[i :: len(images)], windows) for i in images])  # (B, h, w, D)
            image = features.image.float().unflatten(0, (-1, len(images))).mean(0)  # (B, D)
            embeddings = torch.cat((patches.flatten(1, 2), image[:, None]), dim=1)
            return EncodedBuffers(normalize(embeddings, dim=-1), features)


def _of_image(features: TorchFeatures, number: int, images: int) -> TorchFeatures:
    """The windows of one of several images, of whose windows the images lie together."""
    own = slice(number, None, images)
    decoding = tuple(tensor[own] for tensor in features.decoding)
    return TorchFeatures(features.patches[own], features.image[own], decoding)


def _joined(parts: list[TorchFeatures]) -> TorchFeatures:
    """The features of several batches as those of one."""
    if len(parts) == 1:
        return parts[0]
    return TorchFeatures(
        patches=torch.cat([part.patches for part in parts]),
        image=torch.cat([part.image for part in parts]),
        decoding=tuple(
            torch.cat(tensors) for tensors in zip(*(part.decoding for part in parts), strict=True)
        ),
    )
