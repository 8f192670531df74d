"""Read and write network checkpoints."""

from dataclasses import asdict
from pathlib import Path

import torch

from ovs_ros.encoders.checkpoint_keys import Checkpoint, Rule, load_safely, map_keys
from ovs_ros.steps.network_record import RECORD_KEY, NetworkRecord
from ovs_ros.zoo.coarse_to_fine.config import NetworkConfig
from ovs_ros.zoo.coarse_to_fine.network import CoarseToFine


def save(network: CoarseToFine, record: NetworkRecord, path: Path) -> None:
    """Write a network's configuration, weights and record (a file that loads with weights_only)."""
    content = {"config": asdict(network.config), "state": network.state_dict(), RECORD_KEY: record.to_text()}
    torch.save(content, path)


def load(path: Path) -> tuple[CoarseToFine, NetworkRecord]:
    """Read a network that `save` wrote, on the CPU and in evaluation mode, and its record.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not such a file, or keys are missing or unknown: all are listed.
    """
    stored = load_safely(path)
    if not isinstance(stored, dict) or set(stored) != {"config", "state", RECORD_KEY}:
        raise ValueError(f"expected a network that 'ovs train network' wrote in {path}, got another file")
    try:
        network = CoarseToFine(NetworkConfig(**stored["config"]))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"expected the configuration of a network in {path}, got another: {error}; train it again"
        ) from error
    weights = Checkpoint(path, "", stored["state"])
    network.load_state_dict(map_keys(weights, network.state_dict(), [Rule("(.+)", r"\1")]))
    return network.eval(), NetworkRecord.from_text(stored[RECORD_KEY])
