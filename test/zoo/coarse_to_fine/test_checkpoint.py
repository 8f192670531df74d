"""Networks on disk."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")

from zoo.coarse_to_fine.nets import CONFIGS, image, network, words  # noqa: E402

from ovs_ros.steps.network_record import NetworkRecord  # noqa: E402
from ovs_ros.zoo.coarse_to_fine.checkpoint import load, save  # noqa: E402

CONFIG = CONFIGS["embedded"]
RECORD = NetworkRecord("tiny", "0123", ("a {}", "the {}"), ("dog",))


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    save(network(CONFIG), RECORD, tmp_path / "network.pt")
    return tmp_path / "network.pt"


def change(path: Path, part: str, remove: str, add: str) -> None:
    content = torch.load(path, weights_only=True)
    content[part][add] = content[part].pop(remove)
    torch.save(content, path)


def test_a_network_comes_back_as_it_was(stored: Path) -> None:
    features, texts = image(CONFIG, 3, 4), words(CONFIG, 2)
    loaded, record = load(stored)
    assert record == RECORD
    assert loaded.config == CONFIG and not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(features, texts).logits, network(CONFIG)(features, texts).logits)


def test_missing_and_foreign_weights_are_listed_together(stored: Path) -> None:
    change(stored, "state", "head.weight", "head.heavy")
    change(stored, "state", "norm.bias", "norm.bios")
    with pytest.raises(
        ValueError, match=r"missing: norm\.bias, head\.weight; foreign: head\.heavy, norm\.bios"
    ):
        load(stored)


def test_weights_of_another_shape_are_listed(stored: Path) -> None:
    content = torch.load(stored, weights_only=True)
    content["state"]["head.bias"] = torch.zeros(7)
    torch.save(content, stored)
    with pytest.raises(ValueError, match=r"head\.bias \(expected \(1,\), got \(7,\)\)"):
        load(stored)


def test_a_foreign_field_of_the_configuration_is_refused(stored: Path) -> None:
    change(stored, "config", "levels", "floors")
    with pytest.raises(ValueError, match="the configuration of a network in .*'floors'"):
        load(stored)


def test_another_file_is_refused(tmp_path: Path) -> None:
    torch.save({"head": {}}, tmp_path / "head.pt")
    with pytest.raises(ValueError, match="expected a network that .ovs train network. wrote"):
        load(tmp_path / "head.pt")
    torch.save([1], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="expected a network that .ovs train network. wrote"):
        load(tmp_path / "list.pt")
