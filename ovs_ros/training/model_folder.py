"""A training run's folder as a model folder, which `ovs_ros.load` and all commands take."""

from pathlib import Path

import yaml

from ovs_ros.encoders.model_file import ModelFile
from ovs_ros.training.export_network import export_network
from ovs_ros.zoo.coarse_to_fine import checkpoint

NETWORK = "network.pt"
MODEL_FILE = "model.yaml"


def write_model_file(folder: Path, file: ModelFile | None) -> Path:
    """Write the model file beside a trained network, and for the embedded model the network as ONNX.

    Args:
        folder: of the run; holds `network.pt`.
        file: the encoders that the network was trained over; None: the embedded model.

    Returns:
        the model file.
    """
    if file is None:
        export_network(checkpoint.load(folder / NETWORK), folder / "network.onnx")
        described = {"model": "stream", "network": "network.onnx"}
    else:
        weights = Path(file.weights).expanduser()
        described = {
            "model": file.model,
            "weights": str(weights.absolute()) if weights.exists() else file.weights,
            **({"cache": str(Path(file.cache).expanduser().absolute())} if file.cache else {}),
            "attention": file.attention,
            "network": NETWORK,
        }
    path = folder / MODEL_FILE
    path.write_text(yaml.safe_dump(described, sort_keys=False), encoding="utf-8")
    return path
