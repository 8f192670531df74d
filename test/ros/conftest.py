import gc
import os

import pytest

from ovs_ros.ros import measurements

os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")


@pytest.fixture(scope="session", autouse=True)
def younger_garbage():
    """Let the collections of domain.py leave out what other tests have loaded, torch above all."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def patient(monkeypatch):
    """Frames wait for their depth and pose as long as a busy machine may take."""
    monkeypatch.setattr(measurements, "WAIT_S", 20.0)


@pytest.fixture
def vocabulary(tmp_path):
    """A vocabulary file of three colours."""
    path = tmp_path / "colours.yaml"
    path.write_text("categories: [red, green, blue]\nnegatives: [black]\n")
    return str(path)
