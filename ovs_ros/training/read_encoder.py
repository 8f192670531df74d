"""Get DINOv2's weights back from the file that runs: what `build_image_encoder` wrote, read the other way.

The shipped encoder's last blocks are tuned, so the original's weights are not those that a network is to be
trained over.
"""

from pathlib import Path

import numpy as np

from ovs_ros.training.build_image_encoder import (
    DEPTH,
    LAYERS,
    WIDTH,
    Array,
    Block,
    DinoWeights,
    unfold_normalisation,
)
from ovs_ros.training.onnx_graph import GraphWeights


def read_encoder(models: Path) -> DinoWeights:
    """The weights of `image_encoder.onnx` and `position_table.npy`; those in int8 are dequantised.

    Args:
        models: the folder with both files.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the graph is not laid out as `build_image_encoder.build` lays it out.
    """
    path = models / "image_encoder.onnx"
    weights = GraphWeights(path)
    linears = [
        (quantised.astype(np.float32) * scale, bias.astype(np.float32))
        for quantised, scale, _, bias in weights.take("DynamicQuantizeMatMul", 4 * DEPTH)
    ]
    norms: list[tuple[Array, Array]] = [
        (scale.astype(np.float32), bias.astype(np.float32))
        for scale, bias in weights.take("LayerNormalization", 2 * DEPTH + len(LAYERS))
    ]
    blocks, taps = [], []
    for index in range(DEPTH):
        norm1, norm2 = norms.pop(0), norms.pop(0)
        if index + 1 in LAYERS:
            taps.append(norms.pop(0))
        qkv, out, fc1, fc2 = linears[4 * index : 4 * index + 4]
        blocks.append(Block(norm1=norm1, qkv=qkv, attention_out=out, norm2=norm2, fc1=fc1, fc2=fc2))
    kernel, bias = weights.take("Conv", 1)[0]
    tokens = [a for a in weights.arrays.values() if a.shape == (1, 1, WIDTH)]
    if len(tokens) != 1:
        raise ValueError(f"expected one class token in {path}, got {len(tokens)}")
    return DinoWeights(
        patch=unfold_normalisation(kernel.astype(np.float32), bias.astype(np.float32)),
        cls=tokens[0].reshape(1, WIDTH).astype(np.float32),
        positions=np.load(models / "position_table.npy", allow_pickle=False),
        blocks=tuple(blocks),
        norm=taps[0],
        last_norm=taps[-1],
    )
