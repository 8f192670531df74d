"""What ROS costs a frame: the measurement."""

import json
import os
import subprocess
import sys

from domain import own_domain


def test_all_parts_are_timed_and_add_up(tmp_path):
    figures = tmp_path / "border.json"
    command = [sys.executable, "-m", "ovs_ros.ros.bench_border", "--frames", "20", "--json", figures]
    with own_domain() as domain:
        environment = {**os.environ, "ROS_DOMAIN_ID": str(domain)}
        subprocess.run(command, check=True, timeout=120, env=environment)
    read = json.loads(figures.read_text())
    assert len(read) == 5 and all(0 < part["median_ms"] <= part["p95_ms"] for part in read.values())
    assert read["all"]["p95_ms"] >= max(part["median_ms"] for part in read.values())
