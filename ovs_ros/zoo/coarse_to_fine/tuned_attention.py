"""The weights of CLIP that are trained beside a network: queries and values of both towers' attention.

CAT-Seg (Cho et al., CVPR 2024, section 3.4) found that these two suffice; SED and DCP-CLIP follow it.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

TUNED_FILE = "tuned.safetensors"
"""Their file in a model folder."""
_ENDINGS = ("attn.in_proj_weight", "attn.in_proj_bias")


def attention_weights(clip: Any) -> dict[str, Tensor]:
    """By name, the joint projections (3C, …) of queries, keys and values of an open_clip model's towers."""
    return {name: value for name, value in clip.named_parameters() if name.endswith(_ENDINGS)}


def tuned_rows(clip: Any) -> nn.ParameterDict:
    """These weights, from now on with gradients; those of the rows of keys are always 0."""
    weights = {name.replace(".", "/"): value for name, value in attention_weights(clip).items()}
    for value in weights.values():
        value.requires_grad_(True)
        value.register_hook(_without_keys)
    return nn.ParameterDict(weights)


def _without_keys(gradient: Tensor) -> Tensor:
    width = len(gradient) // 3
    return torch.cat([gradient[:width], torch.zeros_like(gradient[:width]), gradient[2 * width :]])


def load_tuned(clip: Any, path: Path) -> None:
    """Put tuned weights into an open_clip model.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is another file, or another model's.
    """
    if not path.is_file():
        raise FileNotFoundError(f"expected weights that 'ovs train network' tuned at {path}, found none")
    try:
        stored = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"expected a file of safetensors in {path}, got another: {error}") from error
    weights = attention_weights(clip)
    if {n: v.shape for n, v in stored.items()} != {n: v.shape for n, v in weights.items()}:
        raise ValueError(f"expected the tuned attention of this model in {path}, got another model's")
    with torch.no_grad():
        for name, value in weights.items():
            value.copy_(stored[name])
