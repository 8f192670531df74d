"""Text towers alone, from open_clip's files or from those of SigLIP in transformers' layout."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ovs_ros.encoders.checkpoint_keys import Rule, map_keys, read_checkpoint
from ovs_ros.encoders.clip.imports import import_open_clip
from ovs_ros.encoders.clip.open_clip_models import make_clip
from ovs_ros.encoders.clip.tokenizer import open_tokenizer
from ovs_ros.encoders.clip.weights import architecture, find_files

_LAYER, _BLOCK = r"text_model\.encoder\.layers\.(\d+)\.", r"text.transformer.resblocks.\1."
_TRANSFORMERS = (
    Rule(r"text_model\.embeddings\.token_embedding\.weight", "text.token_embedding.weight"),
    Rule(r"text_model\.embeddings\.position_embedding\.weight", "text.positional_embedding"),
    *(
        Rule(_LAYER + rf"self_attn\.{part}_proj\.(weight|bias)", _BLOCK + r"attn.in_proj_\2", (place, 3))
        for place, part in enumerate("qkv")
    ),
    Rule(_LAYER + r"self_attn\.out_proj\.(weight|bias)", _BLOCK + r"attn.out_proj.\2"),
    Rule(_LAYER + r"layer_norm([12])\.(weight|bias)", _BLOCK + r"ln_\2.\3"),
    Rule(_LAYER + r"mlp\.fc1\.(weight|bias)", _BLOCK + r"mlp.c_fc.\2"),
    Rule(_LAYER + r"mlp\.fc2\.(weight|bias)", _BLOCK + r"mlp.c_proj.\2"),
    Rule(r"text_model\.final_layer_norm\.(weight|bias)", r"text.ln_final.\1"),
    Rule(r"text_model\.head\.(weight|bias)", r"text.text_projection.\1"),
)
_IMAGE = (r"visual\..+", r"vision_model\..+")
_SMALL = {"image_size": 16, "patch_size": 16, "width": 64, "layers": 1}
"""The image tower that stands in for the one that is left out; open_clip builds no model without one."""


def load_text_tower(wanted: str, cache: str = "") -> tuple[Any, Any, str]:
    """The text tower of a model of open_clip; weights of its image tower are left in the file.

    Args:
        wanted: 'ARCHITECTURE:WEIGHTS', where WEIGHTS is a tag of open_clip or a file; without ':WEIGHTS' the
            only tag of the architecture. A SigLIP's file may also have transformers' layout, as
            google/siglip2-so400m-patch16-naflex has, with its tokenizer.json beside it.
        cache: see `find_files`.

    Returns:
        a model of open_clip with a small image tower without weights, its tokenizer, and a label that
        tells its weights from others.

    Raises:
        FileNotFoundError: weights or tokenizer are not on this machine.
        ModuleNotFoundError: open_clip is not installed.
        ValueError: no such architecture, or the weights are another's.
    """
    model, weights = split_text_tower(wanted)
    files = find_files(model, weights, cache)
    clip = build_text_tower(architecture(model), files.trained)
    digest = fill_text_tower(clip, files.weights)
    return clip, open_tokenizer(model, files.tokenizer), f"{model} {digest[:12]}"


def split_text_tower(wanted: str) -> tuple[str, str]:
    """Architecture and weights in `load_text_tower`'s `wanted`; '' for weights where nothing names them."""
    model, _, weights = wanted.partition(":")
    tags = import_open_clip().list_pretrained_tags_by_model(model)
    return model, weights or (tags[0] if len(tags) == 1 else "")


def build_text_tower(config: dict[str, Any], trained: Mapping[str, Any] | None = None) -> Any:
    """A model of open_clip with random weights in its text tower and a small image tower; see `make_clip`."""
    return make_clip({**config, "vision_cfg": dict(_SMALL)}, trained or {})


def fill_text_tower(clip: Any, weights: Path) -> str:
    """Fill all of a model but its image tower, strictly.

    Returns:
        the sha256 of the file, in hexadecimal.

    Raises:
        FileNotFoundError, ValueError: as `read_checkpoint` and `map_keys` have it.
    """
    expected = {key: tensor for key, tensor in clip.state_dict().items() if not key.startswith("visual.")}
    checkpoint = read_checkpoint(weights)
    for key in ("logit_scale", "logit_bias"):
        if key in checkpoint.tensors and key in expected:
            checkpoint.tensors[key] = checkpoint.tensors[key].reshape(expected[key].shape)
    state = map_keys(checkpoint, expected, (*_TRANSFORMERS, Rule("(.+)", r"\1")), _IMAGE)
    clip.load_state_dict(state, strict=False)
    return checkpoint.sha256
