"""Checkpoints of RADIO: their teachers, and where each tensor belongs.

Two layouts are published. A .pth.tar has 'state_dict' (or 'state_dict_ema', which goes before it) with the
prefixes base_model., input_conditioner., _heads.TEACHER. and _feature_projections.TEACHER. (TEACHER is a name
or a number), and 'args' with the list of teachers. A model.safetensors has the prefix radio_model., adaptors
as radio_model.adaptors.NAME.head_mlp. where they were exported, and the same args in config.json beside it.
"""

import json
import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, serialization

from ovs_ros.encoders.checkpoint_keys import Checkpoint, Rule, as_checkpoint, load_safely, place

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
_WIDTHS_OF_OTHERS = {1152: "SO400M", 1280: "H", 1536: "g"}


@dataclass(frozen=True)
class RadioFile:
    """A checkpoint and the adaptor that is taken from it.

    Attributes:
        checkpoint: the tensors, without those of other adaptors.
        adaptor: the teacher's name.
        slot: which of the first tokens is its.
        rules: where tensors go in `RadioViT`.
    """

    checkpoint: Checkpoint
    adaptor: str
    slot: int
    rules: tuple[Rule, ...]

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

    def named(self) -> dict[str, Tensor]:
        """The tensors by their names in `RadioViT`, which takes its shape from them.

        Raises:
            ValueError: a key that tells the shape is missing, or it is another RADIO than B or L.
        """
        tensors = self.checkpoint.tensors
        named = {place(key, self.rules)[0]: tensor for key, tensor in tensors.items()}
        telling = ("embedder", "positions", "prefix", "blocks.0.mlp.fc1", "head.fc1", "head.final.2")
        if missing := [name for name in telling if name not in named and f"{name}.weight" not in named]:
            reason = ""
            if any(".parametrizations." in key for key in tensors):
                reason = ", whose weights are a spectral parametrisation; take the released file, or fold it"
            raise ValueError(
                f"expected a ViT of C-RADIO with the adaptor {self.adaptor} in {self.checkpoint.path}, got "
                f"a file without what would be {', '.join(missing)}{reason}"
            )
        width = len(named["embedder.weight"])
        if width in _WIDTHS_OF_OTHERS:
            raise ValueError(
                f"expected C-RADIOv3-B or -L in {self.checkpoint.path}, got one of width {width} "
                f"({_WIDTHS_OF_OTHERS[width]}), which is built otherwise; take B or L"
            )
        return named


def read_radio(path: Path, adaptor: str) -> RadioFile:
    """Read a checkpoint; no code in it is ever run.

    Args:
        path: .safetensors with config.json beside it, or .pth.tar.
        adaptor: the teacher's name.

    Raises:
        FileNotFoundError: there is no such file, or no config.json beside it.
        ValueError: it is no checkpoint of RADIO, holds objects that could run code, or has no such adaptor.
    """
    with serialization.safe_globals([Namespace]):  # It holds values and runs nothing.
        stored = load_safely(path)
    checkpoint = as_checkpoint(path, stored)
    args = _config(path) if path.suffix == ".safetensors" else stored.get("args")
    args = vars(args) if isinstance(args, Namespace) else args if isinstance(args, dict) else {}
    teachers = args.get("teachers")
    if not isinstance(teachers, Sequence) or not all(isinstance(teacher, Mapping) for teacher in teachers):
        raise ValueError(f"expected the list of RADIO's teachers in {path}, got {type(teachers).__name__}")
    names = [str(teacher.get("name")) for teacher in teachers]
    if adaptor not in names:
        raise ValueError(
            f"expected adaptor to be one of the teachers in {path} ({', '.join(names)}), got {adaptor!r}; "
            "those with words are clip and the siglips"
        )
    index, name = names.index(adaptor), re.escape(adaptor)
    slot = int(teachers[index].get("token_slot", index)) if args.get("cls_token_per_teacher", True) else 0
    rules = (
        Rule(_BASE + r"patch_generator\.embedder\.weight", "embedder.weight"),
        Rule(_BASE + r"patch_generator\.pos_embed", "positions"),
        Rule(_BASE + r"patch_generator\.cls_token\.token", "prefix"),
        # 'grandma' is how the hub's files spell it, whose tools rename every 'gamma'.
        Rule(_BASE + r"blocks\.(\d+)\.(ls[12])\.(?:gamma|grandma)", r"blocks.\1.\2.gamma"),
        Rule(_BASE + r"(blocks\..+|norm\..+)", r"\1"),
        Rule(r"(?:radio_model\.|_)feature_normalizer\.(mean|tx)", r"feature_\1"),
        Rule(rf"_heads\.(?:{name}|{index})\.(.+)", r"head.\1"),
        Rule(rf"radio_model\.adaptors\.{name}\.head_mlp\.(.+)", r"head.\1"),
    )
    own = {
        key: tensor
        for key, tensor in checkpoint.tensors.items()
        if not key.startswith(("_heads.", "radio_model.adaptors.")) or place(key, rules)[0]
    }
    return RadioFile(replace(checkpoint, tensors=own), adaptor, slot, rules)


def _config(path: Path) -> Any:
    """'args' of config.json beside a file."""
    config = path.parent / "config.json"
    if not config.is_file():
        raise FileNotFoundError(
            f"expected config.json of the same repository beside {path}, and it is not there; it says which "
            "token belongs to which adaptor"
        )
    return json.loads(config.read_text(encoding="utf-8")).get("args")
