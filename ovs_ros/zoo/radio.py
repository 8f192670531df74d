"""RADIO (Ranzinger et al., AM-RADIO, arXiv 2312.06709; C-RADIOv3-B and -L) with words through an adaptor.

One ViT is distilled from several teachers. It has a token for each teacher, registers, a position table that
is cut to the image (CPE), and for each teacher a head of its own. The summary head of a teacher with words,
such as SigLIP 2, was trained on that teacher's token; taken to patches, it gives what words can be compared
with (RayFronts, arXiv 2504.06994, section III-A, NARADIO), provided that the last layer's patches see each
other by their keys and a Gaussian of 7 patches (as NACLIP does), with residual and MLP kept. RADSeg has
them see each other by how alike the last layer's attention left them (self-correlating recursive attention,
SCRA): s = 10 cos within each head, softmax over those that are not negative. The tokens of the teachers see
the last layer as it was trained.

Written from the papers and from the keys and shapes of published checkpoints. What no checkpoint here could
confirm, and so is a reading: that the released C-RADIOv3 files hold plain weights, not those of a spectral
parametrisation; that their summary heads are the residual MLPs of C-RADIOv4, whose keys are public; and that
a feature normaliser, where a file has one, belongs before the head.
"""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovs_ros.encoders.checkpoint_keys import map_keys
from ovs_ros.encoders.clip.attention import LastLayer, as_open_clip, gaussian_window
from ovs_ros.encoders.clip.clip_model import ClipModel, unit
from ovs_ros.encoders.clip.dense_model import TorchFeatures
from ovs_ros.encoders.clip.grid_cache import GridCache
from ovs_ros.encoders.clip.imports import import_open_clip
from ovs_ros.encoders.clip.text_tower import load_text_tower
from ovs_ros.encoders.model_file import ModelFile
from ovs_ros.zoo.radio_checkpoint import IGNORED, RadioFile, read_radio

ATTENTIONS = ("naclip", "radseg", "plain")
SIGMA = 7.0
"""The standard deviation of NARADIO's Gaussian in patches."""
_HEAD_WIDTH = 64
"""Of the attention, in B and L."""
_COMMANDS = """\
    hf download nvidia/C-RADIOv3-B c-radio_v3-b_half.pth.tar --local-dir C-RADIOv3-B
    hf download google/siglip2-so400m-patch16-naflex model.safetensors tokenizer.json tokenizer_config.json \
--local-dir siglip2-so400m-patch16-naflex"""


class Radio(ClipModel):
    """C-RADIO as a dense model; its patches and its image embedding are those of one adaptor's summary head.

    Args:
        radio: the checkpoint.
        text: a model of open_clip whose text tower is the adaptor's teacher's; its image tower is not used.
        tokenizer: see `ClipModel`.
        label: tells the text tower's weights from others.
        attention: 'naclip' for NARADIO, 'radseg' for RADSeg's, 'plain' for RADIO's own patches.

    Raises:
        ValueError: another attention, keys are missing or foreign, or the text tower's space is another than
            the adaptor's.
    """

    def __init__(
        self, radio: RadioFile, text: Any, tokenizer: Any, label: str, attention: str = "naclip"
    ) -> None:
        if attention not in ATTENTIONS:
            raise ValueError(
                f"expected attention to be one of {', '.join(ATTENTIONS)} for RADIO, got {attention!r}; the "
                "others are for CLIP's ViTs"
            )
        vit = RadioViT(radio.named())
        vit.load_state_dict(map_keys(radio.checkpoint, vit.state_dict(), radio.rules, IGNORED))
        name = f"radio {radio.checkpoint.sha256[:12]} {radio.adaptor} {label} {attention}"
        dim = vit.head.final[-1].out_features
        super().__init__(text, name=name, dim=dim, stride=vit.patch, tokenizer=tokenizer)
        self.mean, self.std = radio.normalisation("mean"), radio.normalisation("std")
        self.slot = radio.slot
        self.attention = attention
        self.vit = vit
        self.requires_grad_(False).eval()
        probe = self.embed_texts(["a"]).shape[1]
        if probe != dim:
            raise ValueError(
                f"expected a text tower of {dim} dimensions for the adaptor {radio.adaptor}, got one of "
                f"{probe}; name the teacher's own as adaptor_model"
            )

    def dense(self, images: Tensor) -> TorchFeatures:
        """See `DenseModel.dense`."""
        grid = (images.shape[2] // self.stride, images.shape[3] // self.stride)
        first, patches = self.vit(images, self.attention)
        head = self.vit.head
        return TorchFeatures(unit(head(patches)).unflatten(1, grid), unit(head(first[:, self.slot])))


class RadioViT(nn.Module):
    """The ViT and the summary head of one adaptor.

    Args:
        tensors: of a checkpoint, by this module's names; their shapes are taken, their values are not.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        import_open_clip()  # timm imports torchvision too.
        from timm.models.vision_transformer import Block

        width, numbers = tensors["embedder.weight"].shape
        self.patch = math.isqrt(numbers // 3)
        self.embedder = nn.Linear(numbers, width, bias=False)
        self.positions = nn.Parameter(torch.zeros(tensors["positions"].shape))
        self.prefix = nn.Parameter(torch.zeros(tensors["prefix"].shape))  # teachers' tokens, then registers
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.blocks = nn.ModuleList(
            Block(
                width,
                width // _HEAD_WIDTH,
                mlp_ratio=len(tensors["blocks.0.mlp.fc1.weight"]) / width,
                qkv_bias=True,
                init_values=1.0 if "blocks.0.ls1.gamma" in tensors else None,
                norm_layer=norm,
            )
            for _ in range(_count(tensors, "blocks."))
        )
        self.norm = norm(width) if "norm.weight" in tensors else nn.Identity()
        self.normalises = "feature_mean" in tensors
        if self.normalises:
            self.feature_mean = nn.Parameter(torch.zeros(width))
            self.feature_tx = nn.Parameter(torch.eye(width))
        hidden, dim = (len(tensors[f"head.{part}.weight"]) for part in ("fc1", "final.2"))
        self.head = _Head(width, hidden, dim, _count(tensors, "head.blocks."))
        self._tables = GridCache(self._table)
        self._windows = GridCache(partial(gaussian_window, sigma=SIGMA, prefix=len(self.prefix)))

    def forward(self, images: Tensor, attention: str) -> tuple[Tensor, Tensor]:
        """Encode images.

        Args:
            images: (B, 3, H, W) normalised.
            attention: one of `ATTENTIONS`, the last layer's.

        Returns:
            (B, P, C) the teachers' tokens and registers, (B, N, C) the patches.
        """
        count, grid = len(self.prefix), (images.shape[2] // self.patch, images.shape[3] // self.patch)
        kernel = self.embedder.weight.unflatten(1, (3, self.patch, self.patch))
        patches = F.conv2d(images, kernel, stride=self.patch).flatten(2).mT  # (B, N, C)
        patches = patches + self._tables(grid, patches)
        tokens = torch.cat([self.prefix.to(patches.dtype).expand(len(patches), -1, -1), patches], 1)
        *blocks, last = self.blocks
        for block in blocks:
            tokens = block(tokens)
        layer = LastLayer(as_open_clip(last), tokens, count)
        if attention == "plain":
            patches = layer.plain()
        else:
            reduced = (
                layer.radseg() if attention == "radseg" else layer.naclip(self._windows(grid, layer.key))
            )
            patches = layer.whole(reduced)
        first, patches = self.norm(layer.first_tokens()), self.norm(patches)
        if self.normalises:
            patches = (patches - self.feature_mean) @ self.feature_tx.T
        return first, patches

    def _table(self, grid: tuple[int, int], like: Tensor) -> Tensor:
        """The position table (N, C) of a grid: shrunk to the longer side and cut to the shorter one."""
        side = math.isqrt(self.positions.shape[1])
        table = self.positions[0]
        if grid != (side, side):
            laid = table.float().T.unflatten(1, (side, side))[None]  # (1, C, side, side)
            longer = (max(grid), max(grid))
            laid = F.interpolate(laid, longer, mode="bilinear", align_corners=False)
            table = laid[0, :, : grid[0], : grid[1]].flatten(1).T
        return table.to(like)


class _Head(nn.Module):
    """A summary head: a linear layer, residual ones, a last one; each but the first after norm and GELU."""

    def __init__(self, width: int, hidden: int, dim: int, blocks: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.blocks = nn.ModuleList(_normed(hidden, hidden) for _ in range(blocks))
        self.final = _normed(hidden, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """(…, C) to (…, D)."""
        tokens = self.fc1(tokens)
        for block in self.blocks:
            tokens = tokens + block(tokens)
        return self.final(tokens)


def _normed(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.GELU(), nn.Linear(width, out))


def _count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbers follow a prefix among the names."""
    return len({name[len(prefix) :].split(".")[0] for name in tensors if name.startswith(prefix)})


def load_radio(file: ModelFile) -> Radio:
    """C-RADIOv3-B or -L from a local file, with a local text tower for one of its adaptors.

    Args:
        file: `weights` is the .pth.tar or the model.safetensors (config.json beside it) of a repository such
            as nvidia/C-RADIOv3-B on huggingface.co; `adaptor` the teacher whose words are taken, such as
            'siglip2' or 'clip'; `adaptor_model` its text tower, see `load_text_tower`; `attention` one of
            `ATTENTIONS`.

    Raises:
        FileNotFoundError: a file is missing; the message says how to get it.
        ModuleNotFoundError: open_clip is not installed.
        ValueError: the file is no C-RADIO of this kind, has no such adaptor, or the text tower's space is
            another than the adaptor's.
    """
    weights = Path(file.weights).expanduser()
    if not file.weights or not weights.is_file():
        raise FileNotFoundError(
            f"expected the weights of C-RADIOv3 in {file.weights or '(no file is named)'}, and there is "
            f"no such file. Nothing is downloaded from here: on a machine with a network, run\n{_COMMANDS}\n"
            "then carry the new folders over, and put them beside the model file"
        )
    if not file.adaptor_model:
        raise ValueError(
            "expected adaptor_model to name the text tower of RADIO's adaptor, got nothing; for example "
            "ViT-SO400M-16-SigLIP2-512:siglip2-so400m-patch16-naflex/model.safetensors"
        )
    radio = read_radio(weights, file.adaptor)
    text, tokenizer, label = load_text_tower(file.adaptor_model, file.cache)
    return Radio(radio, text, tokenizer, label, file.attention)
