"""Any torch model behind the numpy protocol of an image encoder."""

import logging
import math
from collections import OrderedDict
from collections.abc import Callable
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
_SHAPES = 4
"""For how many shapes of images buffers and CUDA graphs are kept."""
_PROBE = 8
"""Rows and columns of patches in the image that shows which weights the image's side uses."""


@dataclass(frozen=True)
class Footprint:
    """What decides how much memory a frame takes.

    Attributes:
        device: where the model runs.
        patches: how many patches an image is cut into at most.
        together: whether all windows of an image run as one batch; else one by one.
    """

    device: torch.device
    patches: int
    together: bool = True

    def smaller(self, windows: int, configured: int) -> "Footprint | None":
        """The next one to try when memory is full; None where there is none.

        First windows run one by one, then patches are halved, and below `FEWEST_PATCHES` the CPU takes over,
        with as many patches as configured.

        Args:
            windows: how many windows the image has now.
            configured: how many patches the user asked for.
        """
        if self.together and windows > 1:
            return replace(self, together=False)
        if self.patches // 2 >= FEWEST_PATCHES:
            return replace(self, patches=self.patches // 2)
        if self.device.type != "cpu":
            return Footprint(torch.device("cpu"), configured)
        return None


@dataclass(frozen=True, eq=False)
class EncodedBuffers:
    """What the device computes of one image, in buffers that the next image of its shape overwrites.

    Attributes:
        embeddings: (h*w + 1, D) float32 unit rows: the patches row by row, then the whole image.
        windows: the features of each window, as the model gave them.
    """

    embeddings: Tensor
    windows: TorchFeatures


@dataclass(frozen=True, eq=False)
class ShapeBuffers:
    """What is kept for one shape of images.

    Attributes:
        grid, windows: how an image and its windows lie.
        canvas: (rows*stride, columns*stride, 3) uint8 RGB, pinned beside a GPU; padding is filled.
        pixels: the same on the device, padding too; the canvas itself on a CPU.
        encode: from `pixels` to the embeddings.
    """

    grid: PatchGrid
    windows: Windows
    canvas: Tensor
    pixels: Tensor
    encode: StaticCall[EncodedBuffers]


class TorchImageEncoder:
    """Dense features of a torch model; see `ImageEncoder` for the contract.

    On a GPU the network is one CUDA graph for each shape of images, and frames travel from and to pinned
    memory. When memory is full the encoder falls back to less (see `Footprint`) and lists it in `fallbacks`.

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
        self._configured = patches
        self._precision = precision
        self._window = math.ceil(window / model.stride)
        self._stride = max(1, (stride // model.stride) if stride else self._window // 2)
        self._shapes: OrderedDict[tuple[int, int], ShapeBuffers] = OrderedDict()
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

    def encode(self, image: NDArray[np.uint8]) -> Features:
        """Encode an RGB image (H, W, 3) uint8, scaled into its grid without distortion.

        Raises:
            RuntimeError: the device fails, or its memory is too small even for the last fallback.
        """
        clock = StageClock()
        while True:
            shape = self.buffers(image.shape[0], image.shape[1])
            self.wait()  # A frame that nobody fetched may still read the canvas.
            place(image, shape.grid, shape.canvas.numpy())
            clock.stage("prepare")
            try:
                self.upload(shape)
                buffers = shape.encode()
                embeddings = self.fetch(buffers.embeddings)  # (h*w + 1, D)
                break
            except RuntimeError as error:
                if not is_out_of_memory(error) or not self.fall_back(len(shape.windows.corners)):
                    raise
        clock.stage("encode")
        patch_tokens = embeddings[:-1].reshape(shape.grid.rows, shape.grid.columns, -1)
        head: Head = CosineHead(patch_tokens, self.logit_scale)
        if self.model.decodes:
            scale = self.model.decode_scale
            head = DecoderHead(
                self.model.name,
                (shape.grid.rows * scale, shape.grid.columns * scale),
                lambda words: self._decode(words, buffers.windows, shape.windows, patch_tokens),
            )
        return Features(
            class_token=embeddings[-1],
            patch_tokens=patch_tokens,
            head=head,
            valid=shape.grid.valid,
            logit_scale=self.logit_scale,
            stages_ms=clock.stages_ms,
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

    def fall_back(self, windows: int) -> bool:
        """Memory fallback: take the next smaller footprint and say so. False: there is none.

        Args:
            windows: how many windows the image has that it was full with.
        """
        before, smaller = self.footprint, self.footprint.smaller(windows, self._configured)
        if smaller is None:
            return False
        self.footprint = smaller
        self._shapes.clear()
        self._describe()
        if smaller.device != before.device:
            self._settle()
            step = f"runs on {smaller.device} with {smaller.patches} patches"
        elif smaller.patches != before.patches:
            step = f"cuts images into {smaller.patches} patches in place of {before.patches}"
        else:
            step = "runs windows one by one"
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
        place(image, shape.grid, shape.canvas.numpy())
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

    def buffers(self, height: int, width: int) -> ShapeBuffers:
        """What is kept for images of this height and width, made anew if need be."""
        key = height, width
        if key in self._shapes:
            self._shapes.move_to_end(key)
            return self._shapes[key]
        try:
            shape = self._make_buffers(height, width)
        except RuntimeError as error:
            if not is_out_of_memory(error) or not self.fall_back(1):
                raise
            return self.buffers(height, width)
        if len(self._shapes) == _SHAPES:
            self._shapes.popitem(last=False)
        self._shapes[key] = shape
        return shape

    def _make_buffers(self, height: int, width: int) -> ShapeBuffers:
        model = self.model
        grid = fit_grid(height, width, patches=self.footprint.patches, patch=model.stride)
        windows = lay_windows(grid.rows, grid.columns, self._window, self._stride)
        canvas = torch.empty(
            (grid.rows * grid.patch, grid.columns * grid.patch, 3),
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
        """The device's part of a frame, without waiting for it.

        Args:
            pixels: (rows*stride, columns*stride, 3) uint8 RGB on the device.
            windows: how the image is cut into windows.
        """
        with computing(self.footprint.device, self.dtype):
            batch = crops(self._normalised(pixels[None]), windows, self.model.stride)
            features = _joined(
                [self.model.dense(part) for part in batch.split(len(batch) if self.footprint.together else 1)]
            )
            patches = merge(features.patches.float(), windows)  # (h, w, D)
            image = features.image.float().mean(0, keepdim=True)  # (1, D)
            embeddings = torch.cat((patches.flatten(0, 1), image))
            return EncodedBuffers(normalize(embeddings, dim=-1), features)


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
