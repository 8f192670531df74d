"""What a model file costs, counted and timed before its weights are here, and where its weights are.

Operations are counted on tensors that have shapes alone; time is that of networks with random weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ovs_ros.encoders.clip.clip_model import without_values
from ovs_ros.encoders.clip.dense_model import DenseModel, TorchFeatures
from ovs_ros.encoders.clip.dinoiser import DinoiserHead
from ovs_ros.encoders.clip.image_encoder import TorchImageEncoder
from ovs_ros.encoders.clip.imports import import_open_clip
from ovs_ros.encoders.clip.open_clip_models import build_clip, dense_clip, tower_kind
from ovs_ros.encoders.clip.proxy import Proxy, open_proxy
from ovs_ros.encoders.clip.sliding_windows import crops, lay_windows
from ovs_ros.encoders.clip.text_tower import split_text_tower
from ovs_ros.encoders.clip.vit import OpenClipViT
from ovs_ros.encoders.clip.weights import find_files
from ovs_ros.encoders.model_file import ModelFile
from ovs_ros.encoders.patches import fit_grid
from ovs_ros.zoo.coarse_to_fine import checkpoint
from ovs_ros.zoo.coarse_to_fine.model import CoarseToFineClip
from ovs_ros.zoo.coarse_to_fine.network import CoarseToFine
from ovs_ros.zoo.families import FAMILIES

PROMPTS = 80
"""For models that keep prompts apart."""


@dataclass(frozen=True)
class Cost:
    """What a frame costs.

    Attributes:
        parameters: of all networks in torch, the text tower included.
        height, width: of the networks' input in pixels, padding included.
        flops: of a frame in torch; a multiplication and its addition are two. Matrix products, convolutions
            and attention are counted, as torch.utils.flop_counter has it. ProxyCLIP's second encoder, which
            runs in ONNX Runtime, is not.
    """

    parameters: int
    height: int
    width: int
    flops: int


def count_cost(file: ModelFile, *, height: int, width: int, words: int) -> Cost:
    """Count what a model file's networks do for a frame.

    Args:
        file: the model.
        height, width: of the camera's image in pixels.
        words: among how many categories models with a decoder of their own decode.

    Raises:
        FileNotFoundError, ValueError: of RADIO alone, whose shape is read off its checkpoint.
        ModuleNotFoundError: open_clip is not installed.
    """
    model = _build(file)
    grid = fit_grid(height, width, patches=file.patches, patch=model.stride)
    window = 0 if model.cuts_windows else -(-file.window // model.stride)
    stride = file.stride // model.stride if file.stride else window // 2
    windows = lay_windows(grid.rows, grid.columns, window, max(1, stride))
    size = grid.rows * grid.patch, grid.columns * grid.patch
    counter = FlopCounterMode(display=False)
    with _fake_tensors():
        model.to_empty(device="cpu")
        batch = crops(torch.empty(1, 3, *size), windows, model.stride)
        with counter:
            features = model.dense(batch)
        flops = counter.get_total_flops()
        if model.decodes:
            first = tuple(part[:1] for part in features.decoding)
            prompts = PROMPTS if model.keeps_prompts else 1
            with counter:
                model.decode(
                    TorchFeatures(features.patches[:1], features.image[:1], first),
                    torch.empty(words, prompts, model.dim),
                )
            flops += len(windows.corners) * counter.get_total_flops()
    return Cost(sum(parameter.numel() for parameter in model.parameters()), *size, flops)


def random_encoder(file: ModelFile) -> TorchImageEncoder:
    """A model file's image encoder with random weights, for its time, which does not depend on them.

    Raises:
        FileNotFoundError, ValueError: of RADIO alone, whose shape is read off its checkpoint.
        ModuleNotFoundError: open_clip is not installed.
    """
    model = _build(file, with_proxy=True)
    model.to_empty(device="cpu")
    model.logit_scale = 1.0  # Some families read theirs off the weights.
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.normal_(0.0, 0.02)
            else:
                tensor.zero_()
    return TorchImageEncoder.of(model, file)


@contextmanager
def _fake_tensors() -> Iterator[None]:
    """Fake tensors on the CPU, and attention in operations that the counter counts.

    The device 'meta' does not work, because autocast lacks it.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            FakeTensorMode(allow_non_fake_inputs=True),
            torch.inference_mode(),
            sdpa_kernel(SDPBackend.MATH),
        ):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _build(file: ModelFile, *, with_proxy: bool = False) -> DenseModel:
    """A model file's networks, without values."""
    if family := FAMILIES.get(file.model):
        return (family.build or family.load)(file)
    with without_values():
        clip = build_clip(file.model)
    clip = clip.to_empty(device="cpu")
    if tower_kind(file.model) != "ViT":
        return dense_clip(clip, file, name=file.model)
    with without_values():
        heads = DinoiserHead(clip.visual.conv1.out_channels)
    proxy: Proxy | None = None
    if file.attention == "proxyclip":
        proxy = open_proxy(file.proxy) if with_proxy else _NoProxy()
    vit = dense_clip(clip, file, name=file.model, proxy=proxy, heads=heads)
    if not file.network:
        return vit
    assert isinstance(vit, OpenClipViT)
    with without_values():
        trained, record = checkpoint.load(Path(file.network))
        network = CoarseToFine(trained.config)
    return CoarseToFineClip(vit, network, record, file.model)


class _NoProxy:
    """Stands for ProxyCLIP's second encoder where only operations in torch are counted."""

    name = ""

    def features(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """See `Proxy`."""
        return images.new_empty(len(images), grid[0] * grid[1], 384)


def is_here(file: ModelFile) -> bool:
    """Whether all weights that a model file names are on this machine.

    Raises:
        ValueError: open_clip knows no such architecture or tag.
    """
    paths = [path for path in (file.heads, file.network, file.tuned) if path]
    towers = []
    if file.model in FAMILIES:
        paths.append(file.weights)
        if file.adaptor_model:
            towers.append(split_text_tower(file.adaptor_model))
    else:
        towers.append((file.model, file.weights))
    return all(Path(path).expanduser().is_file() for path in paths) and all(
        _is_found(architecture, weights, file.cache) for architecture, weights in towers
    )


def _is_found(architecture: str, weights: str, cache: str) -> bool:
    if not weights:
        return False
    try:
        find_files(architecture, weights, cache)
    except FileNotFoundError:
        return False
    return True


def find_source(file: ModelFile) -> str:
    """Where the weights of a model file come from; '' where it is not known, as for files of one's own."""
    if file.model in FAMILIES:
        return FAMILIES[file.model].source
    entry = import_open_clip().get_pretrained_cfg(file.model, file.weights)
    repository = entry.get("hf_hub", "").strip("/")
    return f"https://huggingface.co/{repository}" if repository else entry.get("url", "")
