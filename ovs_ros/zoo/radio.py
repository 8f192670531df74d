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
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovs_ros.encoders.checkpoint_keys import map_keys
from ovs_ros.encoders.clip.attention import gaussian_window
from ovs_ros.encoders.clip.clip_model import ClipModel, unit
from ovs_ros.encoders.clip.dense_model import TorchFeatures
from ovs_ros.encoders.clip.grid_cache import GridCache
from ovs_ros.encoders.clip.text_tower import load_text_tower
from ovs_ros.encoders.model_file import ModelFile
from ovs_ros.zoo.radio_checkpoint import IGNORED, RadioFile, RadioShape, key_rules, read_radio

ATTENTIONS = ("naclip", "radseg", "plain")
SIGMA = 7.0
"""The standard deviation of NARADIO's Gaussian in patches."""
SHARPNESS = 10.0
"""What RADSeg multiplies cosines with."""
_COMMANDS = """\
    hf download nvidia/C-RADIOv3-B c-radio_v3-b_half.pth.tar --local-dir C-RADIOv3-B
    hf download google/siglip2-so400m-patch16-naflex model.safetensors tokenizer.json tokenizer_config.json \
--local-dir siglip2-so400m-patch16-naflex"""
_ALIGNED = 16
"""Fused kernels read masks whose rows begin at multiples of this many numbers, and copy others each time."""


class Radio(ClipModel):
    """C-RADIO as a dense model; its patches and its image embedding are those of one adaptor's summary head.

    Args:
        shape: of the network.
        slot: which of the first tokens is the adaptor's teacher's.
        mean, std: of RGB in [0, 1], what the input is normalised with.
        text: a model of open_clip whose text tower is the adaptor's teacher's; its image tower is not used.
        tokenizer: see `ClipModel`.
        name: identifies the weights; the attention is added.
        attention: 'naclip' for NARADIO, 'radseg' for RADSeg's, 'plain' for RADIO's own patches.

    Raises:
        ValueError: another attention.
    """

    def __init__(
        self,
        shape: RadioShape,
        *,
        slot: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        text: Any,
        tokenizer: Any,
        name: str,
        attention: str = "naclip",
    ) -> None:
        if attention not in ATTENTIONS:
            raise ValueError(
                f"expected attention to be one of {', '.join(ATTENTIONS)} for RADIO, got {attention!r}; the "
                "others are for CLIP's ViTs"
            )
        super().__init__(
            text, name=f"{name} {attention}", dim=shape.dim, stride=shape.patch, tokenizer=tokenizer
        )
        self.mean, self.std = mean, std
        self.slot = slot
        self.attention = attention
        self.vit = RadioViT(shape)
        self.requires_grad_(False).eval()

    def dense(self, images: Tensor) -> TorchFeatures:
        """See `DenseModel.dense`."""
        grid = (images.shape[2] // self.stride, images.shape[3] // self.stride)
        first, patches = self.vit(images, self.attention)
        head = self.vit.head
        return TorchFeatures(unit(head(patches)).unflatten(1, grid), unit(head(first[:, self.slot])))


class RadioViT(nn.Module):
    """The ViT and the summary head of one adaptor.

    Args:
        shape: of the network.
    """

    def __init__(self, shape: RadioShape) -> None:
        super().__init__()
        width = shape.width
        self.patch = shape.patch
        self.embedder = nn.Linear(3 * shape.patch**2, width, bias=False)
        self.positions = nn.Parameter(torch.zeros(1, shape.table**2, width))
        self.prefix = nn.Parameter(torch.zeros(shape.prefix, width))  # teachers' tokens, then registers
        self.blocks = nn.ModuleList(_Block(shape) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(width, eps=1e-6) if shape.norm else nn.Identity()
        if shape.normaliser:
            self.feature_mean = nn.Parameter(torch.zeros(width))
            self.feature_tx = nn.Parameter(torch.eye(width))
        self._normalises = shape.normaliser
        self.head = _Head(shape)
        self._tables = GridCache(self._table)
        self._windows = GridCache(self._window)

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
        if attention == "naclip":
            tokens = last.by_keys(tokens, self._windows(grid, patches))
        elif attention == "radseg":
            tokens = last.recursive(tokens, count)
        else:
            tokens = last(tokens)
        tokens = self.norm(tokens)
        first, patches = tokens[:, :count], tokens[:, count:]
        if self._normalises:
            patches = (patches - self.feature_mean) @ self.feature_tx.T
        return first, patches

    def _table(self, grid: tuple[int, int], device: torch.device, dtype: torch.dtype) -> Tensor:
        """The position table (N, C) of a grid: shrunk to the longer side and cut to the shorter one."""
        side = math.isqrt(self.positions.shape[1])
        table = self.positions[0]
        if grid != (side, side):
            laid = table.float().T.unflatten(1, (side, side))[None]  # (1, C, side, side)
            longer = (max(grid), max(grid))
            laid = F.interpolate(laid, longer, mode="bilinear", align_corners=False)
            table = laid[0, :, : grid[0], : grid[1]].flatten(1).T
        return table.to(device, dtype)

    def _window(self, grid: tuple[int, int], device: torch.device, dtype: torch.dtype) -> Tensor:
        """(N, P + N): NACLIP's Gaussian between patches, zeros for the tokens before them."""
        count, prefix = grid[0] * grid[1], len(self.prefix)
        stored = torch.zeros(
            count, math.ceil((prefix + count) / _ALIGNED) * _ALIGNED, dtype=dtype, device=device
        )
        stored[:, prefix : prefix + count] = gaussian_window(grid, device, dtype, sigma=SIGMA)[:, 1:]
        return stored[:, : prefix + count]


class _Block(nn.Module):
    """A block of timm's VisionTransformer under its names."""

    def __init__(self, shape: RadioShape) -> None:
        super().__init__()
        width = shape.width
        self.heads = shape.heads
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, shape.mlp), "fc2": nn.Linear(shape.mlp, width)})
        self.ls1 = nn.Parameter(torch.ones(width)) if shape.layer_scale else None
        self.ls2 = nn.Parameter(torch.ones(width)) if shape.layer_scale else None

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        query, key, value = self._heads(tokens)
        return self._rest(tokens, F.scaled_dot_product_attention(query, key, value).transpose(1, 2))

    def by_keys(self, tokens: Tensor, window: Tensor) -> Tensor:
        """The same, but patches see what answers alike, by `window` (N, P + N) above all their neighbours."""
        first = window.shape[1] - window.shape[0]
        query, key, value = self._heads(tokens)
        before = F.scaled_dot_product_attention(query[:, :, :first], key, value)
        patches = F.scaled_dot_product_attention(key[:, :, first:], key, value, attn_mask=window)
        return self._rest(tokens, torch.cat([before.transpose(1, 2), patches.transpose(1, 2)], 1))

    def recursive(self, tokens: Tensor, first: int) -> Tensor:
        """The same, but patches, all after the `first` tokens, see what the attention itself left alike."""
        query, key, value = self._heads(tokens)
        seen = F.scaled_dot_product_attention(query, key, value).transpose(1, 2)  # (B, T, heads, d)
        joined = self.attn["proj"](seen.flatten(2))  # (B, T, C)
        alike = F.normalize(joined.unflatten(-1, (self.heads, -1)).transpose(1, 2).float(), dim=-1)
        # Products of three axes, as those of four leave views that ONNX lacks.
        alike, value = (heads.contiguous().flatten(0, 1) for heads in (alike, value))  # (B heads, T, d)
        cosines = torch.bmm(alike[:, first:], alike.mT)  # (B heads, N, T)
        weights = (cosines * SHARPNESS).masked_fill(cosines < 0, -torch.inf).softmax(-1)
        patches = torch.bmm(weights.to(value.dtype), value).unflatten(0, (-1, self.heads))
        return self._rest(tokens, torch.cat([seen[:, :first], patches.transpose(1, 2)], 1))

    def _heads(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values, each (B, heads, T, d)."""
        joint = self.attn["qkv"](self.norm1(tokens))
        return joint.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def _rest(self, tokens: Tensor, seen: Tensor) -> Tensor:
        """What follows the attention (B, T, heads, d)."""
        tokens = tokens + _scaled(self.attn["proj"](seen.flatten(2)), self.ls1)
        hidden = F.gelu(self.mlp["fc1"](self.norm2(tokens)))
        return tokens + _scaled(self.mlp["fc2"](hidden), self.ls2)


class _Head(nn.Module):
    """A summary head: a linear layer, residual ones, a last one; each but the first after norm and GELU."""

    def __init__(self, shape: RadioShape) -> None:
        super().__init__()
        hidden = shape.head_width
        self.fc1 = nn.Linear(shape.width, hidden)
        self.blocks = nn.ModuleList(_normed(hidden, hidden) for _ in range(shape.head_blocks))
        self.final = _normed(hidden, shape.dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """(…, C) to (…, D)."""
        tokens = self.fc1(tokens)
        for block in self.blocks:
            tokens = tokens + block(tokens)
        out: Tensor = self.final(tokens)
        return out


def _normed(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.GELU(), nn.Linear(width, out))


def _scaled(branch: Tensor, scale: Tensor | None) -> Tensor:
    return branch if scale is None else branch * scale


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
    return build_radio(radio, text, tokenizer, label, file.attention)


def build_radio(
    radio: RadioFile, text: Any, tokenizer: Any, text_label: str, attention: str = "naclip"
) -> Radio:
    """Build the network and fill it, strictly.

    Args:
        radio: the checkpoint.
        text, tokenizer, text_label: what `load_text_tower` gave.
        attention: see `Radio`.

    Raises:
        ValueError: keys are missing or foreign, or the text tower's space is another than the adaptor's.
    """
    shape = RadioShape.of(radio)
    model = Radio(
        shape,
        slot=radio.slot,
        mean=radio.normalisation("mean"),
        std=radio.normalisation("std"),
        text=text,
        tokenizer=tokenizer,
        name=f"radio {radio.checkpoint.sha256[:12]} {radio.adaptor} {text_label}",
        attention=attention,
    )
    model.vit.load_state_dict(map_keys(radio.checkpoint, model.vit.state_dict(), key_rules(radio), IGNORED))
    probe = model.embed_texts(["a"]).shape[1]
    if probe != shape.dim:
        raise ValueError(
            f"expected a text tower of {shape.dim} dimensions for the adaptor {radio.adaptor}, got one of "
            f"{probe}; name the teacher's own as adaptor_model"
        )
    return model
