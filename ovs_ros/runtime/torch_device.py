"""Torch devices: which one, which precision, and how each reports full memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ovs_ros.runtime.processor import cpu_flags

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16", "svebf16"}
"""How /proc/cpuinfo names the instructions that multiply matrices of bfloat16: x86's and Arm's."""
_FULL = ("out of memory", "ALLOC_FAILED", "can't allocate memory", "NVML_SUCCESS == r INTERNAL ASSERT FAILED")
"""How it is said where the error has no class of its own: by CUDA itself, cuBLAS and cuDNN, torch's allocator
for the CPU, and the one for GPUs on a Jetson, which asks a library for details that a Jetson lacks
(github.com/pytorch/pytorch/issues/185240)."""

MOVING = Lock()
"""Held while a model goes from one device to another, which frames may make it do at any time, and while its
text tower runs for another thread, which needs all weights in one place."""


def resolve_device(text: str = "auto") -> torch.device:
    """The device that a setting means.

    Args:
        text: 'auto' (the first GPU where torch can use one, a Jetson's too, else the CPU), 'cpu', 'cuda' or
            'cuda:N'.

    Raises:
        ValueError: it is none of these, or this machine lacks that GPU.
    """
    kind, _, number = text.partition(":")
    if text in ("auto", "cpu"):
        return (
            torch.device("cuda", 0) if text == "auto" and torch.cuda.is_available() else torch.device("cpu")
        )
    if kind != "cuda" or (text != "cuda" and not number.isdecimal()):
        raise ValueError(f"expected the device to be auto, cpu, cuda or cuda:N, got {text!r}")
    index, count = int(number or 0), torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= count:
        there = f"{count} of them (cuda:0 to cuda:{count - 1})" if count else "none that torch can use"
        raise ValueError(
            f"expected the GPU {text}, got a machine with {there}; say 'auto', which takes the CPU where "
            "there is no GPU, or install a build of torch for this machine's CUDA"
        )
    return torch.device("cuda", index)


def resolve_precision(text: str, device: torch.device) -> torch.dtype:
    """The precision of a model's matrix products on a device; all else stays in float32.

    'auto' is fp16 on GPUs with tensor cores (compute capability 7.0 and above), for its 10 bits of mantissa
    keep more than bf16's 7, and the activations of these models lie far below its limit of 65504; fp32 on
    older ones. On a CPU it is bf16 where it has instructions for that: without them bf16 is emulated, and
    slower than fp32. 'fp16' becomes fp32 on a CPU, so that a model file that asks for it runs there too.

    Raises:
        ValueError: there is no such precision.
    """
    if text == "auto":
        if device.type == "cuda":
            return torch.float16 if torch.cuda.get_device_capability(device) >= (7, 0) else torch.float32
        return torch.bfloat16 if _BF16_FLAGS & cpu_flags() else torch.float32
    if text not in PRECISIONS:
        raise ValueError(f"expected the precision to be auto, {', '.join(PRECISIONS)}, got {text!r}")
    dtype = PRECISIONS[text]
    return torch.float32 if device.type == "cpu" and dtype == torch.float16 else dtype


@contextmanager
def computing(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Inference, with matrix products in this precision and everything else in float32."""
    lower = dtype != torch.float32
    # Under a CUDA graph nothing may outlive its context, as cached casts would not.
    with (
        torch.inference_mode(),
        torch.autocast(device.type, dtype if lower else None, enabled=lower, cache_enabled=False),
    ):
        yield


def cast_matrices(model: nn.Module, dtype: torch.dtype, run: Callable[[], object]) -> None:
    """Cast the matrices and kernels that a call uses, so that autocast need not do so in every frame.

    Vectors (biases, norms) stay in float32, and so does all that the call does not use: the text tower of a
    model whose images alone run in lower precision.

    Args:
        model: changed in place.
        dtype: theirs from now on.
        run: the call.
    """
    with torch.inference_mode(), _ParametersSeen() as watched:
        run()
    for parameter in model.parameters():
        if id(parameter) in watched.seen and parameter.ndim >= 2 and parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


class _ParametersSeen(TorchFunctionMode):
    """Notes every parameter that a function of torch is given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        self.seen.update(id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, nn.Parameter))
        return func(*args, **kwargs)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that a device's memory is full."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(text in str(error) for text in _FULL)
