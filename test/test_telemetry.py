"""Nothing phones home: ONNX Runtime's telemetry is off before anything imports it."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import os, sys
import ovs_ros
assert "onnxruntime" not in sys.modules
assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
from ovs_ros import Segmenter, Vocabulary
import numpy as np
segmenter = ovs_ros.load("stream")
segmenter.segment(np.zeros((48, 64, 3), np.uint8), segmenter.embed(Vocabulary.from_names(["dog", "sofa"])))
assert "onnxruntime" in sys.modules
"""


def test_a_fresh_home_stays_empty(tmp_path: Path) -> None:
    home, cache = tmp_path / "home", tmp_path / "cache"
    home.mkdir()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ORT_")}
    subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**inherited, "HOME": str(home), "OVS_ROS_CACHE": str(cache)},
        check=True,
        timeout=120,
    )
    assert list(home.rglob("*")) == []
