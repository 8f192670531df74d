"""What cameras cost: the measurement, with the real node."""

import subprocess
import sys

import pytest

from ovs_ros.ros import bench_cameras
from ovs_ros.ros.bench_cameras import Run


def test_all_cameras_of_the_real_node_are_counted(monkeypatch):
    monkeypatch.setattr(bench_cameras, "WARM_UP_S", 0.0)
    result = bench_cameras.run(2, 1.0, 20.0, ["vocabulary:=home"])
    assert len(result.frames) == 2 and min(result.frames) > 0
    assert result.private_mb > 50


def test_a_node_that_ends_is_told():
    command = [sys.executable, "-m", "ovs_ros.ros.bench_cameras", "--cameras", "2"]
    given = ["exit_on_failure:=true", "vocabulary:=ofice"]
    ended = subprocess.run([*command, *given], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1 and "got 'ofice'" in ended.stderr


@pytest.mark.parametrize(("frames", "expected"), [([10, 10], 0.0), ([9, 11], 0.1), ([30, 0, 0], 2.0)])
def test_how_far_the_farthest_camera_is_off(frames, expected):
    assert Run(100.0, frames, 10.0).unevenness == pytest.approx(expected)
