"""The endpoint for Prometheus, over HTTP, of a node over DDS."""

import re
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rig import header, running
from sensor_msgs.msg import Image

from ovs_ros.srv import SetVocabulary

GUIDE = (Path(__file__).parents[2] / "docs" / "guide" / "robot.md").read_text(encoding="utf-8")


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def scrape(port):
    """The samples (name, labels) -> value, and the families' names; None where nobody answers."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
    except urllib.error.URLError:
        return None
    samples = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }
    names = {family.name + ("_total" if family.type == "counter" else "") for family in families}
    return samples, {name for name in names if name.startswith("ovs_")}


def value(port, name, **labels):
    return scrape(port)[0].get((name, frozenset(labels.items())))


def change(robot, *transitions):
    for name in transitions:
        transition = Transition(id=getattr(Transition, f"TRANSITION_{name}"))
        assert robot.call(ChangeState, "ovs/change_state", ChangeState.Request(transition=transition)).success


def test_the_figures_of_diagnostics_come_over_http(vocabulary):
    port = free_port()
    with running(vocabulary, cameras=["front", "rear"], metrics_port=port) as robot:
        robot.listen("/diagnostics")
        robot.image(1, camera="front")
        robot.of_stamp("front/semantic/image_raw", 1)
        robot.send("rear/image", Image(header=header(2), height=2, width=2, encoding="rgb8", step=6))
        words = SetVocabulary.Request(mode=SetVocabulary.Request.ADD, names=["cyan"])
        assert robot.call(SetVocabulary, "ovs/set_vocabulary", words).success
        told = robot.until(
            lambda: (
                (last := robot.got["/diagnostics"][-1:])
                and (figures := [{pair.key: pair.value for pair in one.values} for one in last[0].status])
                and figures[0]["vocabulary version"] == "2"
                and figures[1]["dropped: malformed"] == "1"
                and figures
            ),
            "the figures",
        )
        front = {"camera": "front"}
        assert value(port, "ovs_active") == 1
        assert value(port, "ovs_vocabulary_version") == 2 and value(port, "ovs_vocabulary_size") == 4
        assert value(port, "ovs_images_total", **front) == value(port, "ovs_frames_total", **front) == 1
        assert value(port, "ovs_images_total", camera="rear") == 1
        assert value(port, "ovs_frames_total", camera="rear") == 0
        assert value(port, "ovs_dropped_frames_total", camera="rear", reason="malformed") == 1
        assert value(port, "ovs_level", **front) == 1  # Stamps are of 1970.
        assert value(port, "ovs_changes_waiting") == 0
        for quantile, key in (("0.5", "latency p50 [ms]"), ("0.95", "latency p95 [ms]")):
            seconds = value(port, "ovs_latency_seconds", quantile=quantile, **front)
            assert seconds * 1e3 == pytest.approx(float(told[0][key]), abs=0.06)
        assert value(port, "ovs_latency_seconds", quantile="0.5", camera="rear") is None
        assert value(port, "ovs_input_age_seconds", quantile="0.5", **front) > 1e9
        assert value(port, "ovs_stage_seconds", stage="encode", **front) >= 0
        assert 0 <= value(port, "ovs_report_age_seconds") < 20
        assert value(port, "process_resident_memory_bytes") > 10e6
        rows = re.findall(r"^\| (`ovs_.+?) \|", GUIDE, re.MULTILINE)
        documented = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
        assert scrape(port)[1] == documented


def test_it_comes_and_goes_with_the_lifecycle_and_hears_loopback_alone(vocabulary):
    port = free_port()
    with running(vocabulary, autostart=False, metrics_port=port) as robot:
        assert scrape(port) is None
        for _ in range(2):
            change(robot, "CONFIGURE")
            assert value(port, "ovs_active") == 0 and value(port, "ovs_vocabulary_size") == 3
            change(robot, "ACTIVATE", "DEACTIVATE")
            with socket.create_connection(("127.0.0.1", port)):  # A client that says nothing.
                assert scrape(port)
                change(robot, "CLEANUP")
            assert scrape(port) is None
        change(robot, "CONFIGURE")
        listening = re.findall(rf"([0-9A-F]+):{port:04X} [0-9A-F]+:0000 0A", all_sockets())
        assert listening == ["0100007F"]  # 127.0.0.1, and no other address.
    assert scrape(port) is None


def all_sockets():
    return Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()


@pytest.mark.parametrize("fault", ["the port is taken", "the library is missing"])
def test_what_is_in_the_way_is_told_once_and_the_stream_goes_on(vocabulary, monkeypatch, fault):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        if fault == "the library is missing":
            monkeypatch.setitem(sys.modules, "prometheus_client", None)
            monkeypatch.delitem(sys.modules, "ovs_ros.ros.metrics", raising=False)
        port = other.getsockname()[1]
        with running(vocabulary, autostart=False, metrics_port=port) as robot:
            change(robot, "CONFIGURE", "ACTIVATE")
            robot.connected()
            robot.segment(1)
            (warning,) = (text for text in robot.warnings if "metrics" in text)
    remedy = "apt install" if "missing" in fault else "free the port"
    assert f"port {port} (metrics_port), got" in warning and remedy in warning
