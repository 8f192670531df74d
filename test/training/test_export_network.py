"""That the network's ONNX file computes what torch does, on other sizes than it was traced with."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")

from zoo.coarse_to_fine.nets import CONFIGS, image, network, words  # noqa: E402

from ovs_ros.training.export_network import export_network  # noqa: E402
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


def test_half_the_strength_is_the_mean_of_refined_and_plain_logits(tmp_path: Path) -> None:
    config = CONFIGS["embedded"]
    net, path = network(config).eval(), tmp_path / "network.onnx"
    export_network(net, path, strength=0.5)
    features, texts = image(config, 5, 6), words(config, 4)
    with torch.no_grad():
        output = net(features, texts)
    given = {"patches": features.patches, "image": features.image, "words": texts}
    given["shallow"] = torch.cat(features.shallow, dim=-1)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    got = session.run(None, {name: x[0].numpy() for name, x in given.items()})[0]
    mean = (output.logits + output.cosines)[0].permute(1, 2, 0).numpy() / 2
    assert (output.logits - output.cosines).abs().max() > 0.1
    np.testing.assert_allclose(got, mean, atol=2e-4)


def test_a_network_that_adds_nothing_to_cosines_has_no_strength(tmp_path: Path) -> None:
    config = NetworkConfig.embedded(dim=8, shallow=(4,), residual=False)
    with pytest.raises(ValueError, match="export it with 1"):
        export_network(network(config), tmp_path / "network.onnx", strength=0.5)
