"""CAT-Seg, B and L, filled from the authors' checkpoints (see docs/guide/models.md for where they are)."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovs_ros.encoders.checkpoint_keys import Rule, map_keys, read_checkpoint
from ovs_ros.encoders.clip.clip_model import ClipModel, without_values
from ovs_ros.encoders.clip.imports import import_open_clip
from ovs_ros.encoders.model_file import ModelFile
from ovs_ros.zoo.cat_seg_model import CatSeg, CatSegConfig
from ovs_ros.zoo.cat_seg_windows import CatSegWindows

CONFIGS = {
    "cat-seg-b": CatSegConfig("ViT-B-16-quickgelu", "model_base.pth", (3, 7), 384),
    "cat-seg-l": CatSegConfig("ViT-L-14-336-quickgelu", "model_large.pth", (7, 15), 336),
}
"""The published networks, by a model file's `model`."""

_RELEASES = "https://huggingface.co/spaces/hamacojr/CAT-Seg-weights/resolve/main/"
_PREDICTOR = r"sem_seg_head\.predictor\."
RULES = (
    Rule(_PREDICTOR + r"clip_model\.(.+\.attn)\.q_proj_weight", r"clip.\1.in_proj_weight", (0, 3)),
    Rule(_PREDICTOR + r"clip_model\.(.+\.attn)\.k_proj_weight", r"clip.\1.in_proj_weight", (1, 3)),
    Rule(_PREDICTOR + r"clip_model\.(.+\.attn)\.v_proj_weight", r"clip.\1.in_proj_weight", (2, 3)),
    Rule(_PREDICTOR + r"clip_model\.(.+)", r"clip.\1"),
    Rule(_PREDICTOR + r"transformer\.(.+)", r"aggregator.\1"),
    Rule(r"(upsample[12]\..+)", r"\1"),
)
IGNORED = (
    # Masks of shifted windows, for a grid of 24 x 24: they are made for each grid here.
    _PREDICTOR + r"transformer\.layers\.\d+\.swin_block\.block_\d\.attn_mask",
    # Constants of the image's normalisation, which old versions of the code stored.
    r"(clip_)?pixel_(mean|std)",
)


def load_cat_seg(file: ModelFile) -> CatSeg | CatSegWindows:
    """Open CAT-Seg with the authors' checkpoint, its text tower included.

    Args:
        file: `model` is a key of `CONFIGS`, `weights` the checkpoint. Where `window` is not 0, the image is
            taken as the authors test it (see `CatSegWindows`).

    Raises:
        FileNotFoundError: there is no checkpoint; the message says how to get it.
        ValueError: no such model, or a checkpoint that does not fit; the message says where.
        ModuleNotFoundError: open_clip is not installed.
    """
    if file.model not in CONFIGS:
        raise ValueError(f"expected {' or '.join(CONFIGS)}, got {file.model!r}")
    config, path = CONFIGS[file.model], Path(file.weights).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"expected the checkpoint of {file.model} as weights in the model file, got {file.weights!r}; on "
            f"a machine with a network: curl -LO {_RELEASES}{config.file}; copy it here and write in the "
            f"model file: weights: {config.file}"
        )
    checkpoint = read_checkpoint(path)
    model = CatSeg(empty_clip(config.clip), config, f"{file.model}-{checkpoint.sha256[:12]}")
    fill_empty(model, map_keys(checkpoint, model.state_dict(), RULES, IGNORED))
    return CatSegWindows(model, file.window, file.stride) if file.window else model


def empty_clip(name: str) -> Any:
    """A CLIP of open_clip by name, in which no weight has a value yet: none is drawn at random."""
    open_clip = import_open_clip()
    with without_values():
        clip = open_clip.CLIP(**open_clip.get_model_config(name))
    normalisation = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    open_clip.model.set_model_preprocess_cfg(clip, normalisation)
    return clip.to_empty(device="cpu")


def fill_empty(model: ClipModel, state: dict[str, Tensor]) -> None:
    """Give its weights to a model around an `empty_clip`; `state` has a tensor for each of its keys."""
    model.load_state_dict(state, assign=True)
    # What no checkpoint holds, and what was read before there were weights.
    model.clip.attn_mask = torch.full_like(model.clip.attn_mask, -torch.inf).triu_(1)
    model.logit_scale = float(model.clip.logit_scale.exp())
