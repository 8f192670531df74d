"""Read and write network checkpoints."""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from ovs_ros.zoo.coarse_to_fine.config import NetworkConfig
from ovs_ros.zoo.coarse_to_fine.network import CoarseToFine


def save(network: CoarseToFine, path: Path) -> None:
    """Write a network's configuration and weights (a file that loads with weights_only)."""
    torch.save({"config": asdict(network.config), "state": network.state_dict()}, path)


def load(path: Path) -> CoarseToFine:
    """Read a network that `save` wrote, on the CPU and in evaluation mode.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not such a file, or keys are missing or unknown: all are listed.
    """
    stored = torch.load(path, map_location="cpu", weights_only=True)
    _check_keys(f"{path}", {"config", "state"}, stored)
    known = {field.name for field in fields(NetworkConfig)}
    _check_keys(f"the configuration in {path}", known, stored["config"])
    network = CoarseToFine(NetworkConfig(**stored["config"]))
    load_state(network, stored["state"], str(path))
    return network.eval()


def load_state(network: CoarseToFine, state: dict[str, Any], source: str) -> None:
    """Put weights into a network.

    Args:
        network: takes the weights.
        state: name -> tensor.
        source: where the weights come from, for the error.

    Raises:
        ValueError: weights are missing, unknown, or of another shape: all are listed.
    """
    own = network.state_dict()
    _check_keys(f"the weights in {source}", set(own), state)
    other = [
        f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}"
        for key in own
        if state[key].shape != own[key].shape
    ]
    if other:
        raise ValueError(
            f"expected the weights in {source} to have the network's shapes, got {', '.join(other)}"
        )
    network.load_state_dict(state)


def _check_keys(what: str, expected: set[str], got: object) -> None:
    if not isinstance(got, dict):
        raise ValueError(f"expected {what} to be a dictionary, got {type(got).__name__}")
    missing, foreign = sorted(expected - set(got)), sorted(set(got) - expected)
    if missing or foreign:
        raise ValueError(
            f"expected {what} to hold exactly the network's keys; "
            f"missing: {', '.join(missing) or 'none'}; foreign: {', '.join(map(str, foreign)) or 'none'}"
        )
