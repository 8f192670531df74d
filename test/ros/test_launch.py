"""The launch file, run by `ros2 launch`: PyPI does not carry it, a robot does."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

import pytest
from domain import own_domain

if shutil.which("ros2") is None:
    pytest.skip("ros2 launch is not installed: PyPI does not carry it", allow_module_level=True)

FOLDER = Path(__file__).parents[2] / "launch"
DEADLINE_S = 60.0


class Launch:
    """`ros2 launch`, its output in a file."""

    def __init__(self, log: Path, domain: int, file: str, arguments: dict[str, str]) -> None:
        self._log = log
        environment = {**os.environ, "ROS_DOMAIN_ID": str(domain), "PYTHONUNBUFFERED": "1"}
        command = [
            "ros2",
            "launch",
            str(FOLDER / file),
            *(f"{name}:={value}" for name, value in arguments.items()),
        ]
        with log.open("wb") as output:
            self.popen = subprocess.Popen(
                command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def until(self, condition: Callable[[], object]) -> None:
        end = monotonic() + DEADLINE_S
        while not condition():
            assert monotonic() < end, self.said
            sleep(0.02)

    def nodes(self) -> list[int]:
        """The processes of the node that this launch has started."""
        found = subprocess.run(
            ["ps", "-s", str(self.popen.pid), "-o", "pid=,args="], capture_output=True, text=True
        )
        return [int(line.split()[0]) for line in found.stdout.splitlines() if "lib/ovs_ros/ovs_node" in line]


@contextmanager
def launched(folder: Path, file: str = "ovs.launch.py", **arguments: str) -> Iterator[Launch]:
    with own_domain() as domain:
        launch = Launch(folder / "log", domain, file, arguments)
        try:
            yield launch
            launch.until(lambda: not launch.nodes())
        finally:
            if launch.popen.poll() is None or launch.nodes():
                os.killpg(launch.popen.pid, signal.SIGKILL)
            launch.popen.wait()


def test_it_runs_until_it_is_interrupted(tmp_path):
    with launched(tmp_path) as launch:
        launch.until(lambda: "Active: images from /image" in launch.said)
        launch.popen.send_signal(signal.SIGINT)
        assert launch.popen.wait(DEADLINE_S) == 0
        assert "process has finished cleanly" in launch.said and "Traceback" not in launch.said


def test_rviz_that_is_not_installed_does_not_end_it(tmp_path):
    with launched(tmp_path, rviz="true") as launch:
        launch.until(lambda: "Active: images" in launch.said)
        assert shutil.which("rviz2") or "rviz2 is not installed, going on without" in launch.said
        launch.popen.send_signal(signal.SIGINT)
        assert launch.popen.wait(DEADLINE_S) == 0


def test_a_node_that_dies_ends_it_with_an_error(tmp_path):
    with launched(tmp_path) as launch:
        launch.until(lambda: "Active: images" in launch.said)
        os.kill(launch.nodes()[0], signal.SIGKILL)
        assert launch.popen.wait(DEADLINE_S) != 0
        assert "ovs_node ended with exit status -9" in launch.said


def test_a_node_that_dies_is_started_again(tmp_path):
    with launched(tmp_path, respawn="true") as launch:
        launch.until(lambda: "Active: images" in launch.said)
        os.kill(launch.nodes()[0], signal.SIGKILL)
        launch.until(lambda: launch.said.count("Active: images") == 2)
        launch.popen.send_signal(signal.SIGINT)
        assert launch.popen.wait(DEADLINE_S) == 0


@pytest.mark.parametrize("given", [{"vocabulary": "ofice"}, {"views": "cost, ofice"}])
def test_a_node_that_cannot_be_configured_ends_it_with_an_error(tmp_path, given):
    with launched(tmp_path, **given, exit_on_failure="true") as launch:
        assert launch.popen.wait(DEADLINE_S) != 0
        assert "got 'ofice'" in launch.said and "Traceback" not in launch.said


def test_namespace_log_level_and_parameters_reach_the_node(tmp_path):
    parameters = tmp_path / "ovs.yaml"
    parameters.write_text(
        "/**:\n  ros__parameters:\n    lazy: false\n    image_transport: compressed\n    vocabulary: home\n"
    )
    arguments = {"namespace": "front/left", "params_file": str(parameters), "image": "/cam"}
    with launched(tmp_path, **arguments) as launch:
        launch.until(lambda: "[front.left.ovs]: Active: images from /cam/compressed" in launch.said)
        launch.popen.send_signal(signal.SIGINT)
        launch.popen.wait(DEADLINE_S)
    with launched(tmp_path, log_level="warn", **arguments) as launch:
        launch.until(lambda: "nobody publishes /cam/compressed" in launch.said)
        assert "Active" not in launch.said
        launch.popen.send_signal(signal.SIGINT)
        launch.popen.wait(DEADLINE_S)


def test_for_nav2_it_starts_with_the_view(tmp_path):
    view = tmp_path / "nav2.yaml"
    view.write_text("unknown: 0\nrest: 1")  # Only a node that has read it complains.
    (tmp_path / "ovs.yaml").write_text(f"/**:\n  ros__parameters:\n    views: ['{view}']\n")
    arguments = {"params_file": str(tmp_path / "ovs.yaml"), "image": "/cam", "vocabulary": "home"}
    with launched(tmp_path, "nav2.launch.py", **arguments) as launch:
        launch.until(lambda: "Active: images from /cam" in launch.said)  # The argument counts, not the file.
        launch.popen.send_signal(signal.SIGINT)
        assert launch.popen.wait(DEADLINE_S) == 0
