"""Checkpoints of RADIO: their teachers, the shape of the network, and where each tensor belongs.

Two layouts are published. A .pth.tar has 'state_dict' (or 'state_dict_ema', which goes before it) with the
prefixes base_model., input_conditioner., _heads.TEACHER. and _feature_projections.TEACHER. (TEACHER is a name
or a number), and 'args' with the list of teachers. A model.safetensors has the prefix radio_model., adaptors
as radio_model.adaptors.NAME.head_mlp. where they were exported, and the same args in config.json beside it.
"""

import json
import math
import re
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import serialization

from ovs_ros.encoders.checkpoint_keys import Checkpoint, Rule, read_checkpoint

_BASE = r"(?:base_model|radio_model\.model)\."
IGNORED = (
    r"(?:radio_model\.)?input_conditioner\.norm_(?:mean|std)",
    r"radio_model\.summary_idxs",
    _BASE + r"reg_token",
    r"_feature_projections\..+",
    r"(?:radio_model\.inter_feature_normalizer|_intermediate_feature_normalizer)\..+",
    r"_loss_states\..+",
    r"(?:adaloss|lean_in_expected_losses|weight_balance_mask)(?:\..+)?",
)
"""Keys without a part in this inference: adaptors' heads for patches, and what only training reads."""
_HEAD_WIDTH = 64
"""Of the attention, in B and L."""
_WIDTHS_OF_OTHERS = {1152: "SO400M", 1280: "H", 1536: "g"}


@dataclass(frozen=True)
class RadioFile:
    """A checkpoint and the adaptor that is taken from it.

    Attributes:
        checkpoint: the tensors, without those of other adaptors.
        adaptor: the teacher's name.
        index: its place in the list of teachers, under which its head may be kept.
        slot: which of the first tokens is its.
    """

    checkpoint: Checkpoint
    adaptor: str
    index: int
    slot: int

    def normalisation(self, which: str) -> tuple[float, float, float]:
        """'mean' or 'std' of RGB in [0, 1].

        Raises:
            ValueError: the checkpoint has none.
        """
        for prefix in ("", "radio_model."):
            tensor = self.checkpoint.tensors.get(f"{prefix}input_conditioner.norm_{which}")
            if tensor is not None and tensor.numel() == 3:
                red, green, blue = tensor.flatten().tolist()
                return red, green, blue
        raise ValueError(
            f"expected input_conditioner.norm_{which} with 3 values in {self.checkpoint.path}, got none; "
            "take a whole checkpoint of RADIO"
        )


@dataclass(frozen=True)
class RadioShape:
    """The shape of the network, as a checkpoint's tensors have it.

    Attributes:
        width: C.
        depth: blocks.
        heads: of the attention.
        mlp: hidden width of the blocks' MLPs.
        patch: a patch's side in pixels.
        table: side of the position table in patches.
        prefix: P, teachers' tokens and registers.
        layer_scale: whether the blocks' branches are scaled.
        norm: whether a norm follows the last block.
        normaliser: whether patches are normalised before the heads.
        head_width: hidden width of the adaptor's head.
        head_blocks: residual layers of the head.
        dim: D, what the head gives.
    """

    width: int
    depth: int
    heads: int
    mlp: int
    patch: int
    table: int
    prefix: int
    layer_scale: bool
    norm: bool
    normaliser: bool
    head_width: int
    head_blocks: int
    dim: int

    @classmethod
    def of(cls, radio: RadioFile) -> "RadioShape":
        """Read the shape off the tensors.

        Raises:
            ValueError: a key that tells it is missing, or it is another RADIO than B or L.
        """
        named: dict[str, torch.Tensor] = {}
        for key, tensor in radio.checkpoint.tensors.items():
            for rule in key_rules(radio):
                if match := re.fullmatch(rule.pattern, key):
                    named[match.expand(rule.target)] = tensor
                    break
        telling = ("embedder", "positions", "prefix", "blocks.0.mlp.fc1", "head.fc1", "head.final.2")
        if missing := [name for name in telling if name not in named and f"{name}.weight" not in named]:
            reason = ""
            if any(".parametrizations." in key for key in radio.checkpoint.tensors):
                reason = ", whose weights are a spectral parametrisation; take the released file, or fold it"
            raise ValueError(
                f"expected a ViT of C-RADIO with the adaptor {radio.adaptor} in {radio.checkpoint.path}, got "
                f"a file without what would be {', '.join(missing)}{reason}"
            )
        width, numbers = named["embedder.weight"].shape
        if width in _WIDTHS_OF_OTHERS:
            raise ValueError(
                f"expected C-RADIOv3-B or -L in {radio.checkpoint.path}, got one of width {width} "
                f"({_WIDTHS_OF_OTHERS[width]}), which is built otherwise; take B or L"
            )
        return cls(
            width=width,
            depth=_count(named, r"blocks\.(\d+)\..+"),
            heads=width // _HEAD_WIDTH,
            mlp=len(named["blocks.0.mlp.fc1.weight"]),
            patch=math.isqrt(numbers // 3),
            table=math.isqrt(named["positions"].shape[1]),
            prefix=len(named["prefix"]),
            layer_scale="blocks.0.ls1" in named,
            norm="norm.weight" in named,
            normaliser="feature_mean" in named,
            head_width=len(named["head.fc1.weight"]),
            head_blocks=_count(named, r"head\.blocks\.(\d+)\..+"),
            dim=len(named["head.final.2.weight"]),
        )


def key_rules(radio: RadioFile) -> tuple[Rule, ...]:
    """Where a checkpoint's tensors go in `RadioViT`."""
    name = re.escape(radio.adaptor)
    return (
        Rule(_BASE + r"patch_generator\.embedder\.weight", "embedder.weight"),
        Rule(_BASE + r"patch_generator\.pos_embed", "positions"),
        Rule(_BASE + r"patch_generator\.cls_token\.token", "prefix"),
        # 'grandma' is how the hub's files spell it, whose tools rename every 'gamma'.
        Rule(_BASE + r"blocks\.(\d+)\.(ls[12])\.(?:gamma|grandma)", r"blocks.\1.\2"),
        Rule(_BASE + r"(blocks\..+|norm\..+)", r"\1"),
        Rule(r"(?:radio_model\.|_)feature_normalizer\.(mean|tx)", r"feature_\1"),
        Rule(rf"_heads\.(?:{name}|{radio.index})\.(.+)", r"head.\1"),
        Rule(rf"radio_model\.adaptors\.{name}\.head_mlp\.(.+)", r"head.\1"),
    )


def read_radio(path: Path, adaptor: str) -> RadioFile:
    """Read a checkpoint; no code in it is ever run.

    Args:
        path: .safetensors with config.json beside it, or .pth.tar.
        adaptor: the teacher's name.

    Raises:
        FileNotFoundError: there is no such file, or no config.json beside it.
        ValueError: it is no checkpoint of RADIO, holds objects that could run code, or has no such adaptor.
    """
    with _namespace_allowed():
        checkpoint = read_checkpoint(path)
        args = _config(path) if path.suffix == ".safetensors" else _args(path)
    teachers = args.get("teachers")
    if not isinstance(teachers, Sequence) or not all(isinstance(teacher, Mapping) for teacher in teachers):
        raise ValueError(f"expected the list of RADIO's teachers in {path}, got {type(teachers).__name__}")
    names = [str(teacher.get("name")) for teacher in teachers]
    if adaptor not in names:
        raise ValueError(
            f"expected adaptor to be one of the teachers in {path} ({', '.join(names)}), got {adaptor!r}; "
            "those with words are clip and the siglips"
        )
    index = names.index(adaptor)
    slot = int(teachers[index].get("token_slot", index)) if args.get("cls_token_per_teacher", True) else 0
    rules = key_rules(RadioFile(checkpoint, adaptor, index, slot))
    return RadioFile(
        Checkpoint(checkpoint.path, checkpoint.sha256, _without_others(checkpoint.tensors, rules)),
        adaptor,
        index,
        slot,
    )


def _without_others(tensors: Mapping[str, torch.Tensor], rules: Sequence[Rule]) -> dict[str, torch.Tensor]:
    """Without the heads that no rule takes."""
    return {
        key: tensor
        for key, tensor in tensors.items()
        if not key.startswith(("_heads.", "radio_model.adaptors."))
        or any(re.fullmatch(rule.pattern, key) for rule in rules)
    }


def _count(named: Mapping[str, torch.Tensor], pattern: str) -> int:
    """One more than the highest number that the pattern finds among the names; 0 where it finds none."""
    found = [int(match.group(1)) for key in named if (match := re.fullmatch(pattern, key))]
    return max(found, default=-1) + 1


def _config(path: Path) -> dict[str, Any]:
    """'args' of config.json beside a file."""
    config = path.parent / "config.json"
    if not config.is_file():
        raise FileNotFoundError(
            f"expected config.json of the same repository beside {path}, and it is not there; it says which "
            "token belongs to which adaptor"
        )
    args = json.loads(config.read_text(encoding="utf-8")).get("args")
    return dict(args) if isinstance(args, dict) else {}


def _args(path: Path) -> dict[str, Any]:
    """'args' of what torch.save wrote, which `read_checkpoint` has read before."""
    args = torch.load(path, map_location="cpu", weights_only=True, mmap=True).get("args")
    return vars(args) if isinstance(args, Namespace) else {}


@contextmanager
def _namespace_allowed() -> Iterator[None]:
    """Let torch read argparse's Namespace, which holds values and runs nothing."""
    before = serialization.get_safe_globals()
    serialization.add_safe_globals([Namespace])
    try:
        yield
    finally:
        serialization.clear_safe_globals()
        serialization.add_safe_globals(before)
