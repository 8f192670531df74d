"""Get the head in torch back from the files that run: what `export_head` wrote, read the other way."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ovs_ros.training.head import Head
from ovs_ros.training.onnx_graph import GraphWeights

Array = NDArray[np.float32]


def read_head(models: Path) -> Head:
    """The head of `image_head.onnx` and `text_head.npz`, in evaluation mode; int8 weights are dequantised.

    Args:
        models: the folder with both files.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the graph is not laid out as `export_head.build_image_head` lays it out.
    """
    weights = GraphWeights(models / "image_head.onnx")
    mixers = weights.count("LayerNormalization")
    # The order in which build_image_head writes its layers down.
    linears = ["reduce", *(f"mixers.{i}.{part}" for i in range(mixers) for part in ("widen", "narrow"))]
    linears += ["spread", "image", "patch"]
    convolutions = [*(f"mixers.{i}.around" for i in range(mixers)), "guide", "refine", "weights", "details"]
    norms = [f"mixers.{i}.norm" for i in range(mixers)]
    state: dict[str, Array] = {}

    def take(kind: str, names: Sequence[str]) -> list[tuple[str, list[Array]]]:
        return list(zip(names, weights.take(kind, len(names)), strict=True))

    for name, (quantised, scale, _, bias) in take("DynamicQuantizeMatMul", linears):
        state[f"{name}.weight"] = (quantised.astype(np.float32) * scale).T
        state[f"{name}.bias"] = bias
    for name, (weight, bias) in take("Conv", convolutions) + take("LayerNormalization", norms):
        state[f"{name}.weight"], state[f"{name}.bias"] = weight, bias
    with np.load(models / "text_head.npz", allow_pickle=False) as words:
        state["words.weight"], state["words.bias"] = words["weight"].T, words["bias"]
        state["detail_words.weight"] = words["details"].T
    head = Head(
        width=state["reduce.bias"].size,
        dim=state["patch.bias"].size,
        details=state["details.bias"].size,
        mixers=mixers,
    )
    head.load_state_dict({k: torch.from_numpy(np.array(v, np.float32)) for k, v in state.items()})
    return head.eval()
