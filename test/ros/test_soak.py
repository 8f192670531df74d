import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from ovs_ros.cli.main import app
from ovs_ros.ros.soak_report import Sample, lines, plot, problems, signed

OVS = [sys.executable, "-c", "from ovs_ros.cli.main import app; app()", "soak"]


def samples(memory_mb, every_s=60.0, frames=5):
    """One a minute for an hour."""
    return [
        Sample(every_s * i, float(mb), 20, 10, 90.0 if frames else float("nan"), frames)
        for i, mb in enumerate(memory_mb)
    ]


def test_a_rise_after_the_warm_up_is_told_in_units_an_hour():
    warm_up, then = np.linspace(100, 300, 12), np.linspace(300, 340, 49)
    rising = samples([*warm_up, *then])
    rises = lines(rising)
    assert rises["memory_mb"][0] == pytest.approx(50.0, rel=0.03)
    assert rises["open_files"] == pytest.approx((0.0, 20.0), abs=1e-6)
    (line,) = problems(rising)
    assert line.startswith("private memory (MB): a rise of 5")


@pytest.mark.parametrize("rise", [300.0, 300.0 - np.arange(61)])
def test_what_stays_or_falls_is_no_problem(rise):
    assert problems(samples(np.broadcast_to(rise, 61))) == []


def test_a_short_run_is_not_judged_by_its_rises():
    assert problems(samples(range(61), every_s=1.0)) == []


def test_a_stream_that_stops_is_a_problem():
    stopped = [*samples([300.0] * 30, 1.0), *samples([300.0] * 11, 1.0, frames=0), *samples([300.0], 1.0)]
    assert problems(stopped) == ["11 seconds without a label image, expected at most 10"]
    assert problems(stopped[1:-2]) == []


@pytest.mark.parametrize(("rise", "text"), [(-0.04, "+0.0"), (0.06, "+0.1"), (-3.0, "-3.0"), (np.nan, "")])
def test_a_rise_has_a_sign(rise, text):
    assert signed(rise) == text


def test_the_plot_has_a_panel_for_each_figure_from_0_up():
    picture = plot(samples(range(61)))
    blue = picture[:, :, 2].astype(int) - picture[:, :, 0] > 60  # The measured values.
    first, second = blue[:156], blue[156:312]
    assert first.any(axis=1).sum() > 80  # From the bottom to the top.
    assert second.any(axis=1).sum() < 10
    assert plot(samples([300.0] * 61, frames=0)).shape == picture.shape  # A figure without values.


def children(process_id):
    """The processes that a process started, by their command lines."""
    pids = Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()
    return {int(pid): Path(f"/proc/{pid}/cmdline").read_text() for pid in pids}


def test_a_short_run_of_the_real_node(tmp_path):
    command = [*OVS, "--output", str(tmp_path / "out"), "--minutes", "0.06", "--change-every", "1"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "private memory" in ended.stdout and "Rises are judged from 10 minutes on" in ended.stdout
    header, *rows = (tmp_path / "out" / "soak.csv").read_text().splitlines()
    assert header == "seconds,memory_mb,open_files,threads,latency_ms,frames"
    assert len(rows) >= 2 and all(float(row.split(",")[1]) > 50 for row in rows)
    assert cv2.imread(str(tmp_path / "out" / "soak.png")) is not None


def test_a_node_that_is_killed_is_told(tmp_path):
    with subprocess.Popen([*OVS, "-o", str(tmp_path)], stdout=subprocess.PIPE, text=True) as ovs:
        said = ovs.stdout.readline()
        assert said.startswith("The node runs"), said + ovs.communicate()[0]
        (node,) = (pid for pid, command in children(ovs.pid).items() if "ovs_ros.ros.node" in command)
        os.kill(node, signal.SIGKILL)
        said = ovs.communicate(timeout=60)[0]
    assert ovs.returncode == 1 and "Error: the node ended with exit status -9" in said


def test_an_output_that_is_a_file_is_told_in_one_line(tmp_path):
    (tmp_path / "out").touch()
    ended = CliRunner().invoke(app, ["soak", "-o", str(tmp_path / "out")])
    assert ended.exit_code == 2 and ended.output.startswith("Error: ") and ended.output.count("\n") == 1
