"""Networks of others, filled from the checkpoints that their authors offer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ovs_ros.encoders.checkpoint_keys import Rule, map_keys, read_checkpoint
from ovs_ros.encoders.clip.clip_model import ClipModel, without_values
from ovs_ros.encoders.clip.imports import import_open_clip
from ovs_ros.encoders.model_file import ModelFile


def find_checkpoint(file: ModelFile, offered: str) -> Path:
    """The checkpoint that a model file names as `weights`.

    Args:
        file: the model file.
        offered: how to get the checkpoint, for the error.

    Raises:
        FileNotFoundError: there is no such file; the message says how to get it.
    """
    path = Path(file.weights).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"expected the checkpoint of {file.model} as weights in the model file, got {file.weights!r}; on "
            f"a machine with a network: {offered}; then copy it here and name it in the model file"
        )
    return path


def empty_clip(name: str) -> Any:
    """A CLIP of open_clip by name, in which no weight has a value yet: none is drawn at random."""
    open_clip = import_open_clip()
    with without_values():
        clip = open_clip.CLIP(**open_clip.get_model_config(name))
    normalisation = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    open_clip.model.set_model_preprocess_cfg(clip, normalisation)
    return clip.to_empty(device="cpu")


def fill(model: ClipModel, path: Path, rules: Sequence[Rule], ignored: Sequence[str] = ()) -> None:
    """Fill a network from a checkpoint, strictly, and name it by the file.

    Args:
        model: around a CLIP of open_clip, which may be an `empty_clip`.
        path: the checkpoint.
        rules, ignored: see `map_keys`.

    Raises:
        FileNotFoundError, ValueError: as `read_checkpoint` and `map_keys`.
    """
    checkpoint = read_checkpoint(path)
    model.load_state_dict(map_keys(checkpoint, model.state_dict(), rules, ignored), assign=True)
    # What no checkpoint holds, and what was read before there were weights.
    model.clip.attn_mask = torch.full_like(model.clip.attn_mask, -torch.inf).triu_(1)
    model.logit_scale = float(model.clip.logit_scale.exp())
    model.name = f"{model.name}-{checkpoint.sha256[:12]}"
