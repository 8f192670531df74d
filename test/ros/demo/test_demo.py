import os
import subprocess
import sys

from ovs_ros.ros.demo.run import (
    Process,
    first_to_end,
    isolated_environment,
    start,
)
from ovs_ros.ros.shared_memory import VARIABLES, profile


def test_the_first_process_to_end_is_found():
    slow = Process("slow", subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE), None)
    quick = Process("quick", subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]), None)
    try:
        assert first_to_end([slow, quick]) is quick
        assert quick.popen.returncode == 3
    finally:
        slow.stop()
    assert slow.popen.poll() is not None


def test_a_module_that_fails_leaves_its_last_words(tmp_path):
    log = tmp_path / "camera.log"
    process = start("demo.camera", ["--rate", "0"], dict(os.environ), log)
    assert first_to_end([process]) is process
    assert process.popen.returncode == 2
    assert "--rate must lie above 0" in process.last_words()
    assert "camera.log" in process.last_words()


def test_each_run_keeps_to_itself_and_uses_the_profile():
    environment = isolated_environment()
    assert environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    assert 1 <= int(environment["ROS_DOMAIN_ID"]) <= 101
    assert {environment[name] for name in VARIABLES} == {str(profile())}
