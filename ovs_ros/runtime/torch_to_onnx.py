"""From a torch module to an ONNX file: with every shape a number, or with free axes."""

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnxruntime as ort
import torch
from torch import Tensor, nn
from torch.export import export
from torch.fx import GraphModule
from torch.nn import functional as F

OPSET = 18
_LARGEST = 2_000_000_000
"""Bytes that one ONNX file holds, a limit of its format."""


def write_static(
    module: nn.Module,
    arguments: tuple[Tensor, ...],
    path: Path,
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> None:
    """Write a module as it runs on arguments of exactly these shapes.

    The module is first captured by `torch.export`, in which sizes are numbers and everything that depends on
    sizes alone is a constant, and that graph is then written. Tracing the module itself would leave thousands
    of nodes that compute shapes, which keep ONNX Runtime and TensorRT from fusing attention.

    Args:
        module: in evaluation mode; has run once on arguments of these shapes, so that what it keeps for them
            is made.
        arguments: examples.
        path: gets the file.
        inputs, outputs: their names, in order.

    Raises:
        ValueError: the module has an operation that ONNX lacks, or too many weights for one file.
    """
    with torch.no_grad():
        try:
            captured = export(module, arguments, strict=False).run_decompositions({}).module()
        except RuntimeError as error:
            raise _cannot(path, error) from error
    assert isinstance(captured, GraphModule)
    _simplify(captured)
    write_free(captured, arguments, path, inputs, outputs)
    _fold(path)


def write_free(
    module: nn.Module,
    arguments: tuple[Tensor, ...],
    path: Path,
    inputs: Sequence[str],
    outputs: Sequence[str],
    free: dict[str, dict[int, str]] | None = None,
) -> None:
    """Write a module some of whose axes may have any length.

    The module is traced: what it computes from sizes must stay a tensor, and the arguments must not have the
    length 1 along free axes.

    Args:
        module: in evaluation mode.
        arguments: examples.
        path: gets the file.
        inputs, outputs: their names, in order.
        free: by input or output, axis to name; None: no axis is free.

    Raises:
        ValueError: as `write_static`.
    """
    size = sum(p.numel() * p.element_size() for p in (*module.parameters(), *module.buffers()))
    if size > _LARGEST:
        raise ValueError(
            f"expected a model of at most {_LARGEST:,} bytes for one ONNX file, got {size:,}; take a smaller "
            "one, or run it with torch"
        )
    with torch.no_grad(), warnings.catch_warnings(), _silence():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                module,
                arguments,
                path,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_axes=free,
                opset_version=OPSET,
                training=torch.onnx.TrainingMode.PRESERVE,
                dynamo=False,
            )
        except RuntimeError as error:
            raise _cannot(path, error) from error


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention; in an ONNX file one operator, which ONNX Runtime need not recognise.

    Args:
        query, key, value: (B, N, C).
        heads: C is split among so many.
        mask: (B, N) int32, 0 for keys that nothing attends to.

    Returns:
        (B, N, C).
    """
    if torch.onnx.is_in_onnx_export():
        mixed: Tensor = _Attention.apply(query, key, value, heads, mask)
        return mixed
    q, k, v = (tensor.unflatten(2, (heads, -1)).transpose(1, 2) for tensor in (query, key, value))
    shown = None if mask is None else (mask != 0)[:, None, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=shown).transpose(1, 2).flatten(2)


class _Attention(torch.autograd.Function):
    """ONNX Runtime's MultiHeadAttention, for the exporter alone."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None
    ) -> Tensor:
        return torch.empty_like(query)

    @staticmethod
    def symbolic(g: Any, query: Any, key: Any, value: Any, heads: int, mask: Any) -> Any:
        inputs = [query, key, value]
        if mask is not None and mask.node().kind() != "prim::Constant":
            no_bias = g.op("prim::Constant")
            no_bias.setType(torch._C.OptionalType.ofTensor())
            inputs += [no_bias, mask]
        return g.op("com.microsoft::MultiHeadAttention", *inputs, num_heads_i=heads).setType(query.type())


def _fold(path: Path) -> None:
    """Compute in advance what depends on constants alone; nothing but standard operations comes in."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    # Gemm takes matrices alone: the reshapes around it would hide attention from what fuses it later.
    ort.InferenceSession(
        path.read_bytes(),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=["MatMulAddFusion"],
    )


def _simplify(graph: GraphModule) -> None:
    """Replace what only `torch.export` writes by what the exporter knows."""
    aten = torch.ops.aten
    # How many elements these have is known, so that they are constants.
    fills = {aten.full_like.default: None, aten.zeros_like.default: 0, aten.ones_like.default: 1}
    for node in list(graph.graph.nodes):
        if node.target is aten._assert_tensor_metadata.default:
            graph.graph.erase_node(node)
        elif node.target in (aten.alias.default, aten.detach_.default, aten.lift_fresh_copy.default):
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
        elif node.target is aten._to_copy.default:
            node.target = aten.to.dtype
            node.args, node.kwargs = (node.args[0], node.kwargs["dtype"]), {}
        elif node.target is aten._unsafe_view.default:
            node.target = aten.view.default
        elif node.target is aten._native_batch_norm_legit_no_training.default:
            *tensors, momentum, epsilon = node.args
            node.target = aten.batch_norm.default
            node.args = (*tensors, False, momentum, epsilon, False)
            # It gave a triple, of which only the first is used where nothing is trained.
            for first in list(node.users):
                first.replace_all_uses_with(node)
                graph.graph.erase_node(first)
        elif node.target in fills:
            like, fill = node.meta["val"], fills[node.target]
            value = torch.full(like.shape, node.args[1] if fill is None else fill, dtype=like.dtype)
            name = f"_constant_{node.name}"
            graph.register_buffer(name, value)
            with graph.graph.inserting_before(node):
                constant = graph.graph.get_attr(name)
            node.replace_all_uses_with(constant)
            graph.graph.erase_node(node)
    graph.recompile()


@contextmanager
def _silence() -> Iterator[None]:
    """Nothing on standard output: the exporter prints a whole graph when it lacks an operation in it."""
    sys.stdout.flush()
    kept, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nothing)


def _cannot(path: Path, error: Exception) -> ValueError:
    reason = str(error).strip().partition("\n")[0]
    return ValueError(
        f"expected a model that ONNX can express for {path.name}, got one that it cannot: {reason}; choose "
        "another attention, or run it with torch"
    )
