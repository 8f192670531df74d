from dataclasses import replace
from time import monotonic

import pytest
from diagnostic_msgs.msg import DiagnosticStatus

from ovs_ros.ros.diagnostics import Condition, judge, lacks, values
from ovs_ros.ros.inputs import Missing
from ovs_ros.ros.statistics import Statistics

ACTIVE = Condition(
    state="active",
    since=0.0,
    topic="/camera/image",
    obstacle="",
    best_effort=True,
    vocabulary_version=3,
    vocabulary_size=12,
    model="fake",
    device="cpu",
)


def statistics(frames=0, drops=(), lost=0):
    counted = Statistics()
    counted.lost(lost)
    for i in range(frames):
        counted.arrived()
        counted.published(50.0 + i, {"encode": 30.0, "decode": float(i)})
    for reason in drops:
        counted.dropped(reason)
    return counted


@pytest.mark.parametrize(
    ("change", "drops", "silence", "level", "text"),
    [
        ({}, (), 0, DiagnosticStatus.OK, "segmenting"),
        ({"state": "inactive"}, (), 99, DiagnosticStatus.OK, "inactive"),
        ({"state": "unconfigured"}, (), 99, DiagnosticStatus.OK, "configure"),
        ({"idle": True, "obstacle": "nobody publishes it"}, (), 99, DiagnosticStatus.OK, "nobody subscribes"),
        ({"failure": "activate failed: no"}, (), 0, DiagnosticStatus.ERROR, "activate failed: no"),
        ({"clock_missing": True, "obstacle": "nobody publishes it"}, (), 6, DiagnosticStatus.WARN, "/clock"),
        ({"clock_missing": True}, (), 4, DiagnosticStatus.OK, "segmenting"),
        ({}, ("failed",), 0, DiagnosticStatus.ERROR, "fails"),
        ({}, ("not finite",), 0, DiagnosticStatus.ERROR, "NaN or infinity"),
        ({"obstacle": "nobody publishes /camera/image"}, (), 6, DiagnosticStatus.WARN, "nobody publishes"),
        ({}, (), 6, DiagnosticStatus.WARN, "FASTDDS_DEFAULT_PROFILES_FILE"),
        ({}, ("malformed",), 0, DiagnosticStatus.WARN, "cannot be read"),
        ({"cache_problem": "the disk is full"}, (), 0, DiagnosticStatus.WARN, "the disk is full: new words"),
        ({"fallbacks": ("runs on cpu",)}, (), 0, DiagnosticStatus.WARN, "fake runs on cpu"),
        ({}, ("replaced by a newer one",) * 9, 0, DiagnosticStatus.OK, "segmenting"),
    ],
)
def test_the_level_tells_what_is_wrong(change, drops, silence, level, text):
    summary = replace(statistics(frames=5, drops=drops).summary(), last_arrival=None)
    got, message, _ = judge(replace(ACTIVE, **change), summary, silence)
    assert got == level
    assert text in message


def aged(ms):
    counted = Statistics()
    counted.arrived()
    counted.published(ms, {"encode": 700.0})
    return counted.summary()


@pytest.mark.parametrize(
    ("age_ms", "text"),
    [
        (-60_000, "60.0 s ahead of the node's clock"),
        (10_000, "10.0 s behind the node's clock"),
        (3_000, None),
        (-50, None),
    ],
)
def test_stamps_of_another_clock_are_told(age_ms, text):
    level, message, warning = judge(ACTIVE, aged(age_ms), monotonic())
    assert (level, warning) == ((DiagnosticStatus.WARN, "clock") if text else (DiagnosticStatus.OK, None))
    assert (text or "segmenting") in message


@pytest.mark.parametrize(
    ("age_s", "sim_time", "cause"),
    [
        (7200, False, "from a recording or a simulation"),
        (-7200, False, "Synchronise the clocks"),
        (10, False, "Synchronise the clocks"),
        (-1.7e9, True, "seem to have the system's time"),
        (10, True, "Play the recording more slowly"),
    ],
)
def test_the_likely_cause_of_another_clock_is_told(age_s, sim_time, cause):
    _, message, _ = judge(replace(ACTIVE, sim_time=sim_time), aged(age_s * 1e3), monotonic())
    assert cause in message


def test_images_without_a_clock_are_told_of_the_clock():
    _, message, warning = judge(replace(ACTIVE, clock_missing=True), aged(-1.7e12), monotonic())
    assert "no time comes from /clock" in message and "set use_sim_time to false" in message
    assert warning == "clock"


def test_what_frames_lack_is_told():
    condition = replace(ACTIVE, missing=("no depth for 3 s: because", "no pose for 3 s: why not"))
    assert judge(condition, statistics(frames=5).summary(), monotonic()) == (
        DiagnosticStatus.WARN,
        "no depth for 3 s: because; no pose for 3 s: why not",
        "missing",
    )


@pytest.mark.parametrize(
    ("missing", "obstacle", "text"),
    [
        (
            Missing("depth", 3, None, None, None),
            "nobody publishes /d",
            "no depth for 3 s: nobody publishes /d",
        ),
        (Missing("depth", 3, None, None, None), "", "no message comes from /d though it has a publisher"),
        (Missing("pose", 3, 9.0, 1.0, None), "", "no message comes from /d"),
        (Missing("depth", 3, 0.1, -0.35, 0.7), "", "/d comes 0.70 s after its images, too late"),
        (Missing("depth", 3, 0.1, -0.35, None), "", "0.350 s behind its image; sync_slop allows 0.02 s"),
        (Missing("depth", 3, 0.1, 0.35, None), "", "0.350 s ahead of its image"),
    ],
)
def test_why_frames_lack_something_is_told(missing, obstacle, text):
    assert text in lacks(missing, obstacle, "/d", 0.02)


def test_images_lost_on_the_way_are_told():
    level, message, _ = judge(ACTIVE, statistics(frames=5, lost=3).summary(), monotonic())
    assert level == DiagnosticStatus.WARN
    assert "38% of the images from /camera/image are lost" in message and "FASTDDS" in message
    level, _, _ = judge(ACTIVE, statistics(frames=30, lost=1).summary(), monotonic())
    assert level == DiagnosticStatus.OK


@pytest.mark.parametrize(("best_effort", "heard"), [(False, False), (True, True)])
def test_where_messages_get_through_the_profile_is_not_the_advice(best_effort, heard):
    summary = replace(statistics().summary(), last_arrival=0.0 if heard else None)
    _, message, _ = judge(replace(ACTIVE, best_effort=best_effort), summary, 6)
    assert "no image" in message and "FASTDDS" not in message


def test_figures():
    counted = statistics(frames=5, drops=("malformed", "malformed", "failed"))
    figures = values(replace(ACTIVE, fallbacks=("does this", "does that")), counted.summary())
    assert figures["memory fallback"] == "does this; does that"
    assert figures["input age p50 [ms]"] == "52.0"
    assert figures["latency p50 [ms]"] == "32.0"
    assert figures["stage decode [ms]"] == "2.0"
    assert figures["dropped"] == "3"
    assert figures["dropped: malformed"] == "2"
    assert figures["vocabulary version"] == "3"
    assert figures["vocabulary size"] == "12"
    assert int(figures["memory [MB]"]) > 10


def test_figures_without_frames_are_empty_and_not_nan():
    assert values(ACTIVE, statistics().summary())["latency p50 [ms]"] == ""


def test_drops_are_news_only_once():
    counted = statistics(drops=("failed",))
    assert counted.summary().dropped_lately == {"failed": 1}
    assert counted.summary().dropped_lately == {}
    assert counted.summary().dropped == {"failed": 1}


def test_a_middleware_that_counts_far_too_many_lost_images():
    assert statistics(frames=3, lost=10**18).summary().lost_share > 0.99
