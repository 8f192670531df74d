"""A few lines of sugar over onnx.helper: to write a network down as an ONNX graph, and to read it again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

MICROSOFT = "com.microsoft"
OPSET = 20


class Graph:
    """Collects nodes and weights; every call returns the name of the tensor it makes."""

    def __init__(self, *, int8: bool) -> None:
        """Start an empty graph.

        Args:
            int8: store the weights of `linear` as int8 with one scale a column and quantise its input at
                run time (ONNX Runtime's DynamicQuantizeMatMul); otherwise float32.
        """
        self.int8 = int8
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def constant(self, value: NDArray[Any], name: str = "c") -> str:
        """Store an array in the file."""
        name = f"{name}_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def op(self, kind: str, *inputs: str, domain: str = "", outputs: int = 1, **attributes: Any) -> Any:
        """Add a node; returns its output's name, or a list of names for several outputs."""
        names = [f"{kind}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def linear(self, x: str, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> str:
        """x (…, I) times weight (I, O) plus bias (O,)."""
        if not self.int8:
            return self.op("Add", self.op("MatMul", x, self.constant(weight)), self.constant(bias))
        quantised, scale = quantise_columns(weight)
        return self.op(
            "DynamicQuantizeMatMul",
            x,
            self.constant(quantised),
            self.constant(scale),
            self.constant(np.zeros(weight.shape[1], np.int8)),
            self.constant(bias),
            domain=MICROSOFT,
        )

    def layer_norm(
        self, x: str, weight: NDArray[np.float32], bias: NDArray[np.float32], epsilon: float
    ) -> str:
        """Layer normalisation over the last axis."""
        return self.op(
            "LayerNormalization", x, self.constant(weight), self.constant(bias), axis=-1, epsilon=epsilon
        )

    def ints(self, *values: int) -> str:
        """An int64 vector."""
        return self.constant(np.array(values, np.int64))

    def finish(
        self,
        name: str,
        inputs: dict[str, tuple[int, Sequence[int | str]]],
        outputs: dict[str, tuple[str, Sequence[int | str]]],
    ) -> onnx.ModelProto:
        """Close the graph and check it.

        Args:
            name: the graph's name.
            inputs: name -> (TensorProto element type, shape with names for free axes).
            outputs: name -> (tensor of this graph, shape); all float32.
        """
        for output, (tensor, _) in outputs.items():
            self.nodes.append(helper.make_node("Identity", [tensor], [output]))
        graph = helper.make_graph(
            self.nodes,
            name,
            [helper.make_tensor_value_info(key, kind, shape) for key, (kind, shape) in inputs.items()],
            [
                helper.make_tensor_value_info(key, TensorProto.FLOAT, shape)
                for key, (_, shape) in outputs.items()
            ],
            self.weights,
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        )
        model.ir_version = 10
        onnx.checker.check_model(model)
        return model


def quantise_columns(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric int8 with one scale a column.

    Args:
        weight: (I, O).

    Returns:
        (I, O) int8 and (O,) float32 such that quantised * scale approximates weight.
    """
    scale = np.maximum(np.abs(weight).max(axis=0), 1e-12) / 127.0
    return np.round(weight / scale).astype(np.int8), scale.astype(np.float32)


class GraphWeights:
    """The weights of a graph that `ovs train` wrote, node by node.

    Attributes:
        arrays: by name, all constants of the graph.

    Raises:
        FileNotFoundError: there is no such file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        graph = onnx.load(path).graph
        self.arrays: dict[str, NDArray] = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self._inputs: dict[str, list[list[str]]] = {}
        for node in graph.node:
            self._inputs.setdefault(node.op_type, []).append(list(node.input))

    def count(self, kind: str) -> int:
        """How many nodes of an operator there are."""
        return len(self._inputs.get(kind, []))

    def take(self, kind: str, count: int) -> list[list[NDArray]]:
        """The constants of each node of an operator, in the order of the graph.

        Raises:
            ValueError: there are more or fewer than `count` nodes.
        """
        if self.count(kind) != count:
            raise ValueError(
                f"expected {count} nodes {kind} in {self.path}, got {self.count(kind)}; was it written by "
                "'ovs train'? A head in torch can be given with --head"
            )
        return [[self.arrays[i] for i in one if i in self.arrays] for one in self._inputs.get(kind, [])]
