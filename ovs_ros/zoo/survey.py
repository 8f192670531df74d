"""What can be said of a model file before its weights are here: what a frame costs, and where weights are.

Operations are counted on tensors that know their shapes alone; time is that of networks with random weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ovs_ros.encoders.clip.clip_model import without_values
from ovs_ros.encoders.clip.dense_model import DenseModel, TorchFeatures
from ovs_ros.encoders.clip.dinoiser import DinoiserHead
from ovs_ros.encoders.clip.image_encoder import TorchImageEncoder
from ovs_ros.encoders.clip.imports import import_open_clip
from ovs_ros.encoders.clip.open_clip_models import build_clip, dense_clip
from ovs_ros.encoders.clip.proxy import Proxy, open_proxy
from ovs_ros.encoders.clip.sliding_windows import crops, lay_windows
from ovs_ros.encoders.clip.text_tower import split_text_tower
from ovs_ros.encoders.clip.vit import OpenClipViT
from ovs_ros.encoders.clip.weights import find_files
from ovs_ros.encoders.model_file import ModelFile
from ovs_ros.encoders.patches import fit_grid
from ovs_ros.zoo import cat_seg, san, sed
from ovs_ros.zoo.cat_seg_model import CatSeg
from ovs_ros.zoo.cat_seg_windows import CatSegWindows
from ovs_ros.zoo.coarse_to_fine import checkpoint
from ovs_ros.zoo.coarse_to_fine.model import CoarseToFineClip
from ovs_ros.zoo.coarse_to_fine.network import CoarseToFine
from ovs_ros.zoo.families import FAMILIES
from ovs_ros.zoo.radio import load_radio

_SOURCES = {
    "cat-seg-b": "https://huggingface.co/spaces/hamacojr/CAT-Seg-weights",
    "cat-seg-l": "https://huggingface.co/spaces/hamacojr/CAT-Seg-weights",
    "sed-b": "https://github.com/xb534/SED",
    "sed-l": "https://github.com/xb534/SED",
    "san-b": "https://huggingface.co/Mendel192/san",
    "san-l": "https://huggingface.co/Mendel192/san",
    "radio": "https://huggingface.co/nvidia/C-RADIOv3-B",
}
PROMPTS = 80
"""For models that keep prompts apart."""


@dataclass(frozen=True)
class Cost:
    """What a frame costs.

    Attributes:
        parameters: of all networks, the text tower included.
        height, width: of the networks' input in pixels, padding included.
        flops: of a frame; a multiplication and its addition are two. Matrix products, convolutions and
            attention are counted, as torch.utils.flop_counter has it.
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
    with _pretending():
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
    return Cost(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        height=size[0],
        width=size[1],
        flops=flops,
    )


def random_encoder(file: ModelFile) -> TorchImageEncoder:
    """A model file's image encoder with random weights, for its time, which does not depend on them.

    Raises:
        FileNotFoundError, ValueError: of RADIO alone, whose shape is read off its checkpoint.
        ModuleNotFoundError: open_clip is not installed.
    """
    model = _build(file, open_proxy(file.proxy) if file.attention == "proxyclip" else None)
    model.to_empty(device="cpu")
    model.logit_scale = 1.0  # Some families read theirs off the weights.
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.normal_(0.0, 0.02)
            else:
                tensor.zero_()
    return TorchImageEncoder(
        model,
        patches=file.patches,
        device=file.device,
        precision=file.precision,
        window=0 if model.cuts_windows else file.window,
        stride=0 if model.cuts_windows else file.stride,
    )


@contextmanager
def _pretending() -> Iterator[None]:
    """Tensors that pretend to lie on the CPU, and attention in operations that the counter knows.

    The device 'meta' would do but for autocast, which does not know it.
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


def _build(file: ModelFile, proxy: Proxy | None = None) -> DenseModel:
    """A model file's networks, without values; `proxy` is for 'proxyclip', None: its shape in torch."""
    name = file.model
    if name in san.CONFIGS:
        return san.build_san(name)
    if name in cat_seg.CONFIGS:
        config = cat_seg.CONFIGS[name]
        with without_values():
            model = CatSeg(cat_seg.empty_clip(config.clip), config, name)
        return CatSegWindows(model, file.window, file.stride) if file.window else model
    if name in sed.ARCHITECTURES:
        with without_values():
            return sed.Sed(cat_seg.empty_clip(sed.ARCHITECTURES[name]), name=name)
    if FAMILIES.get(name) is load_radio:
        return load_radio(file)
    with without_values():
        clip = build_clip(name)
    clip = clip.to_empty(device="cpu")
    if not isinstance(clip.visual, import_open_clip().transformer.VisionTransformer):
        return dense_clip(clip, file, name=name)
    with without_values():
        vit = OpenClipViT(
            clip,
            name=name,
            attention=file.attention,
            outliers=file.outliers,
            proxy=(proxy or _BlankProxy()) if file.attention == "proxyclip" else None,
            heads=DinoiserHead(clip.visual.conv1.out_channels) if file.attention == "dinoiser" else None,
        )
        if not file.network:
            return vit
        network = CoarseToFine(checkpoint.load(Path(file.network)).config)
        return CoarseToFineClip(vit, network, name)


class _BlankProxy(nn.Module):
    """The shape of the embedded DINOv2 ViT-S/14, which runs outside of torch where there are weights."""

    name = "dinov2-vits14"

    def __init__(self) -> None:
        super().__init__()
        import_open_clip()  # timm imports torchvision too.
        from timm import create_model

        self.vit: Any = create_model("vit_small_patch14_dinov2", dynamic_img_size=True)

    def features(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """See `Proxy`."""
        pixels = images.new_empty(len(images), 3, 14 * grid[0], 14 * grid[1])
        return self.vit.forward_features(pixels)[:, 1:]


def is_here(file: ModelFile) -> bool:
    """Whether all weights that a model file names are on this machine.

    Raises:
        ValueError: open_clip knows no such architecture or tag.
    """
    paths = [path for path in (file.heads, file.network) if path]
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
    if file.model in _SOURCES:
        return _SOURCES[file.model]
    entry = import_open_clip().get_pretrained_cfg(file.model, file.weights)
    repository = entry.get("hf_hub", "").strip("/")
    return f"https://huggingface.co/{repository}" if repository else entry.get("url", "")
