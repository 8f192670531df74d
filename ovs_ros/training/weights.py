"""What `ovs train head` and `ovs train tune` save, and means of several runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ovs_ros.training.dino_torch import with_tail, write_encoder
from ovs_ros.training.export_head import save_text_head, write_image_head
from ovs_ros.training.head import Head
from ovs_ros.training.originals import original_dino

State = dict[str, Tensor]
FILE = "weights.pt"
"""The file in a run's folder."""


def save_weights(folder: Path, **parts: State) -> None:
    """Write a run's parts, 'head' and perhaps 'tail' (a file that loads with weights_only)."""
    torch.save(parts, folder / FILE)


def load_weights(run: Path) -> dict[str, State]:
    """A run's parts by name.

    Args:
        run: its folder, or the file itself.

    Raises:
        ValueError: there is no such file.
    """
    path = run / FILE if run.is_dir() else run
    if not path.is_file():
        raise ValueError(f"expected a file with weights at {path}, and there is none")
    return torch.load(path, map_location="cpu", weights_only=True)


def mean_state(states: Sequence[State], shares: Sequence[float] | None = None) -> State:
    """The mean of several runs' weights; `shares`: how much each counts, None: all the same."""
    counts = [1.0] * len(states) if shares is None else shares
    return {
        key: sum(count * state[key] for count, state in zip(counts, states, strict=True)) / sum(counts)
        for key in states[0]
    }


def write_models(models: Path, parts: Mapping[str, State]) -> None:
    """Write a head, and the encoder if there is a tail, as the run time takes them."""
    head = Head()
    head.load_state_dict(parts["head"])
    write_image_head(head.eval(), models / "image_head.onnx")
    save_text_head(head, models / "text_head.npz")
    if "tail" in parts:
        write_encoder(with_tail(original_dino(), parts["tail"]), models / "image_encoder.onnx")
