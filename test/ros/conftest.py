import os

import pytest

os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")


@pytest.fixture
def vocabulary(tmp_path):
    """A vocabulary file of three colours."""
    path = tmp_path / "colours.yaml"
    path.write_text("categories: [red, green, blue]\nnegatives: [black]\n")
    return str(path)
