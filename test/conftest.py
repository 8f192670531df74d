"""What all tests share. That this file lies here also lets them import `fakes`."""

import pytest
from hypothesis import settings

# How long an example takes says nothing on a machine that does other things too.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep embeddings of tests out of the user's cache."""
    monkeypatch.setenv("OVS_ROS_CACHE", str(tmp_path_factory.getbasetemp() / "embeddings"))
