"""Write a trained network as an ONNX file for the run time."""

import copy
from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from ovs_ros.runtime.torch_to_onnx import write_free
from ovs_ros.steps.network_record import RECORD_KEY, NetworkRecord
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


def export_network(network: CoarseToFine, path: Path, record: NetworkRecord = NetworkRecord()) -> None:  # noqa: B008
    """Export a network.

    Inputs, all float32: `patches` (h, w, D) and `image` (D), unit norm; if the configuration has them,
    `shallow` (h, w, sum of its widths), the earlier layers side by side, and `attention` (h, w, heads);
    `words` (M, P, D), unit norm. Output: `logits` (s*h, s*w, M) float32. h, w and M are free. An input is
    there even if no part of the network looks at it.

    Args:
        network: trained; its mode and weights stay as they are.
        path: the file to write.
        record: goes into the file's metadata.
    """
    config = network.config
    network = copy.deepcopy(network).cpu().eval()
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
    entry = model.metadata_props.add()
    entry.key, entry.value = RECORD_KEY, record.to_text()
    onnx.save(model, path)
