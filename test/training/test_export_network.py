"""That the network's ONNX file computes what torch does, on other sizes than it was traced with."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")

from zoo.coarse_to_fine.nets import CONFIGS, image, network, words  # noqa: E402

from ovs_ros.steps.network import Network  # noqa: E402
from ovs_ros.steps.network_record import NetworkRecord  # noqa: E402
from ovs_ros.training.export_network import export_network  # noqa: E402
from ovs_ros.training.recipes.network import at_strength  # noqa: E402
from ovs_ros.zoo.coarse_to_fine.config import NetworkConfig  # noqa: E402


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_exported_network_computes_the_same(config: NetworkConfig, tmp_path: Path) -> None:
    net, path = network(config).train(), tmp_path / "network.onnx"
    export_network(net, path)
    assert net.training
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    for h, w, categories in ((8, 7, 5), (4, 9, 1)):
        features, texts = image(config, h, w), words(config, categories)
        with torch.no_grad():
            expected = net.eval()(features, texts).logits[0].permute(1, 2, 0).numpy()
        given = {"patches": features.patches, "image": features.image, "words": texts}
        if config.shallow:
            given["shallow"] = torch.cat(features.shallow, dim=-1)
        if features.attention is not None:
            given["attention"] = features.attention
        assert {i.name for i in session.get_inputs()} == set(given)
        got = session.run(None, {name: x[0].numpy() for name, x in given.items()})[0]
        assert got.dtype == np.float32 and got.shape == expected.shape
        np.testing.assert_allclose(got, expected, atol=2e-4)


def test_the_file_says_what_the_network_was_trained_on(tmp_path: Path) -> None:
    config, path = CONFIGS["cost alone"], tmp_path / "network.onnx"
    record = NetworkRecord("tiny", "0123", ("a {}",), ("Kühlschrank", "dog"))
    export_network(network(config), path, record)
    assert Network(path).record == record


def test_half_the_strength_is_the_mean_of_refined_and_plain_logits() -> None:
    config = CONFIGS["embedded"]
    net = network(config).eval()
    features, texts = image(config, 5, 6), words(config, 4)
    with torch.no_grad():
        output, half = net(features, texts), at_strength(net, 0.5)(features, texts)
    assert (output.logits - output.cosines).abs().max() > 0.1
    torch.testing.assert_close(half.logits, (output.logits + output.cosines) / 2)


def test_a_network_that_adds_nothing_to_cosines_has_no_strength() -> None:
    config = NetworkConfig.embedded(8, shallow=(4,), residual=False)
    with pytest.raises(ValueError, match="leave strength at 1"):
        at_strength(network(config), 0.5)
