"""What all tests share. That this file lies here also lets them import `fakes`."""

from pathlib import Path

import pytest
from fault_table import FaultTable
from hypothesis import settings

# How long an example takes says nothing on a machine that does other things too.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep embeddings of tests out of the user's cache."""
    monkeypatch.setenv("OVS_ROS_CACHE", str(tmp_path_factory.getbasetemp() / "embeddings"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """--fault-table PAGE: write the results of the tests marked as faults into a page."""
    parser.addoption("--fault-table", type=Path, metavar="PAGE", help=FaultTable.__doc__.splitlines()[0])


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and the table if it is asked for."""
    config.addinivalue_line("markers", "fault(kind, happens): injects a fault; see fault_table.py")
    if page := config.getoption("--fault-table"):
        config.pluginmanager.register(FaultTable(page))
