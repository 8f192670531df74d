"""Write a trained network as an ONNX file for the run time."""

import copy
from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from ovs_ros.runtime.torch_to_onnx import write_free
from ovs_ros.zoo.coarse_to_fine.network import CoarseToFine
from ovs_ros.zoo.coarse_to_fine.network_inputs import ImageFeatures


class _OneImage(nn.Module):
    """The network for one image, tensors without a batch axis, categories last."""

    def __init__(self, network: CoarseToFine) -> None:
        super().__init__()
        self.network = network

    def forward(self, patches: Tensor, image: Tensor, *rest: Tensor) -> Tensor:
        *others, words = rest
        config = self.network.config
        shallow: tuple[Tensor, ...] = ()
        if config.shallow:
            shallow = others[0].unsqueeze(0).split(config.shallow, dim=-1)
        attention = others[-1].unsqueeze(0) if config.attention else None
        features = ImageFeatures(patches.unsqueeze(0), image.unsqueeze(0), shallow, attention)
        return self.network(features, words.unsqueeze(0)).logits[0].permute(1, 2, 0)


def export_network(network: CoarseToFine, path: Path, strength: float = 1.0) -> None:
    """Export a network.

    Inputs, all float32: `patches` (h, w, D) and `image` (D), unit norm; if the configuration has them,
    `shallow` (h, w, sum of its widths), the earlier layers side by side, and `attention` (h, w, heads);
    `words` (M, P, D), unit norm. Output: `logits` (s*h, s*w, M) float32. h, w and M are free. An input is
    there even if no part of the network looks at it.

    Args:
        network: trained; its mode and weights stay as they are.
        path: the file to write.
        strength: how much of what its last layer adds to the scaled cosines is written: with 0.5 the logits
            are the mean of the network's and the plain ones.

    Raises:
        ValueError: a strength other than 1 for a network that does not add to the cosines.
    """
    config = network.config
    network = copy.deepcopy(network).cpu().eval()
    if strength != 1.0:
        if not config.residual:
            raise ValueError(
                f"expected a network that adds to the scaled cosines for a strength of {strength}, got one "
                "whose residual is off; export it with 1"
            )
        with torch.no_grad():
            for parameter in network.head.parameters():
                parameter.mul_(strength)
    h, w, m = 5, 6, 3
    inputs = {"patches": torch.ones(h, w, config.dim), "image": torch.ones(config.dim)}
    axes = {"patches": {0: "rows", 1: "columns"}, "words": {0: "categories"}}
    if config.shallow:
        inputs["shallow"] = torch.ones(h, w, sum(config.shallow))
        axes["shallow"] = {0: "rows", 1: "columns"}
    if config.attention:
        inputs["attention"] = torch.ones(h, w, config.attention)
        axes["attention"] = {0: "rows", 1: "columns"}
    inputs["words"] = torch.ones(m, config.prompts, config.dim)
    axes["logits"] = {0: "fine rows", 1: "fine columns", 2: "categories"}
    write_free(_OneImage(network), tuple(inputs.values()), path, list(inputs), ["logits"], axes)
    model = onnx.load(path)
    there = {value.name for value in model.graph.input}
    for name, example in inputs.items():
        if name not in there:
            shape = [axes.get(name, {}).get(axis, size) for axis, size in enumerate(example.shape)]
            model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    onnx.save(model, path)
