import subprocess
import sys

import cv2
import numpy as np
import pytest

from ovs_ros.ros.soak import Sample, excesses, plot, slopes


def samples(memory_mb):
    """One a minute for an hour."""
    return [Sample(60.0 * i, float(mb), 20, 10, float("nan"), 0) for i, mb in enumerate(memory_mb)]


def test_a_rise_after_the_warm_up_is_told_in_units_an_hour():
    warm_up, then = np.linspace(100, 300, 12), np.linspace(300, 340, 49)
    rises = slopes(samples([*warm_up, *then]))
    assert rises["memory_mb"] == pytest.approx(50.0, rel=0.03)
    assert rises["handles"] == pytest.approx(0.0, abs=1e-6)
    (line,) = excesses(rises)
    assert line.startswith("memory_mb rises by 5")


def test_what_stays_is_no_excess():
    assert excesses(slopes(samples([300.0] * 61))) == []


def test_the_plot_has_a_panel_for_each_figure():
    picture = plot(samples(range(61)))
    assert picture.shape[0] % 5 == 0 and picture.shape[2] == 3
    first = picture[: picture.shape[0] // 5]
    assert (first[:, :, 2] < 100).any(axis=1).sum() > 50  # A line from the bottom to the top.


def test_a_short_run_of_the_real_node(tmp_path):
    command = [sys.executable, "-m", "ovs_ros.ros.soak", "--output", str(tmp_path), "--minutes", "0.06"]
    result = subprocess.run(
        [*command, "--change-every", "1"], capture_output=True, text=True, timeout=120, check=False
    )
    assert "ended with exit status" not in result.stdout + result.stderr
    header, *rows = (tmp_path / "soak.csv").read_text().splitlines()
    assert header == "seconds,memory_mb,handles,threads,latency_ms,frames"
    assert len(rows) >= 2 and all(float(row.split(",")[1]) > 50 for row in rows)
    assert cv2.imread(str(tmp_path / "soak.png")) is not None
