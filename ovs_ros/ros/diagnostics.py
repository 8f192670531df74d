"""What is to be said of a camera, for /diagnostics and the log."""

import math
import os
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticStatus

from ovs_ros.ros import shared_memory
from ovs_ros.ros.inputs import Missing
from ovs_ros.ros.size_control import State
from ovs_ros.ros.statistics import Summary

SILENCE_S = 5.0
LOST_SHARE = 0.1
MISSING_S = 2.0
"""Seconds without depth, pose or calibration, though frames want it, after which it is reported."""
OLD_MS, AHEAD_MS = 2000.0, 100.0
"""Milliseconds by which stamps may lie behind and ahead of the node's clock."""
SLOW_S, HANGING_S = 5.0, 15.0
"""Seconds that one frame may take before it is a warning, and before it counts as hanging."""
DIED_S = 10.0
"""For how long it is told that the worker's thread died."""
FAR_S = 3600.0
"""Stamps that are farther away than this are of another kind of clock, not of one that is badly set."""
_NO_CLOCK = (
    "use_sim_time is true, but no time comes from /clock: start the simulation, play the recording with "
    "'ros2 bag play --clock', or set use_sim_time to false"
)


@dataclass(frozen=True)
class Condition:
    """What is known of the node and a camera besides the statistics.

    Attributes:
        state: 'unconfigured', 'inactive' or 'active'.
        since: when it got into it, monotonic seconds.
        topic: the resolved name of the image topic.
        obstacle: why no image can come, as far as the ROS graph tells; empty if it shows no reason.
        best_effort: whether images come best effort.
        idle: nobody subscribes to what comes of the images.
        missing: what frames lack beside the image, though it is wanted, one sentence each.
        sim_time: time comes from /clock.
        clock_missing: it does, and nothing has come.
        failure: why the last transition failed, or empty.
        busy: for how many seconds the frame at work lasts, and where in the code it is.
        changes_waiting: how many changes of words wait in the queue.
        change_hangs: where a change of words hangs; empty if it does not.
        deaths, died: how often the worker's thread died, and when it last did, monotonic seconds.
        fallbacks: the memory fallbacks of the model, one line for each step.
        cache_problem: why the embedding cache cannot be used, or empty.
        size: of the frames, while `target_rate` is set and the model's size can change; else None.
    """

    state: str
    since: float
    topic: str = ""
    obstacle: str = ""
    best_effort: bool = False
    idle: bool = False
    missing: tuple[str, ...] = ()
    sim_time: bool = False
    clock_missing: bool = False
    failure: str = ""
    busy: tuple[float, str] = (0.0, "")
    changes_waiting: int = 0
    change_hangs: str = ""
    deaths: int = 0
    died: float | None = None
    vocabulary_version: int = 0
    vocabulary_size: int = 0
    model: str = ""
    device: str = ""
    fallbacks: tuple[str, ...] = ()
    cache_problem: str = ""
    size: State | None = None


@dataclass(frozen=True)
class Report:
    """What /diagnostics tells of a camera at one time.

    Attributes:
        camera: its name.
        at: when, monotonic seconds.
        level: of DiagnosticStatus, as a number.
    """

    camera: str
    at: float
    level: int
    condition: Condition
    summary: Summary


def judge(condition: Condition, summary: Summary, now: float) -> tuple[bytes, str, str | None]:
    """The level, what it means, and the kind of the warning that belongs into the log.

    Args:
        now: monotonic seconds.
    """
    warn = DiagnosticStatus.WARN
    last = summary.last_arrival
    silence = now - (condition.since if last is None else max(condition.since, last))
    if condition.failure:
        return DiagnosticStatus.ERROR, f"{condition.state}: {condition.failure}", None
    if condition.state != "active":
        step = "activate" if condition.state == "inactive" else "configure and activate"
        return DiagnosticStatus.OK, f"{condition.state}: {step} the node to segment", None
    seconds, where = condition.busy
    if seconds > HANGING_S:
        text = f"a frame has been at work for {seconds:.0f} s and hangs, in {where}"
        return (
            DiagnosticStatus.ERROR,
            f"{text}; deactivate and clean up the node: configure loads the model anew",
            "hangs",
        )
    if condition.change_hangs:
        text = f"a change of the words hangs, in {condition.change_hangs}; frames go on with the old words"
        return (
            DiagnosticStatus.ERROR,
            f"{text}. Deactivate and clean up the node: configure loads the model anew",
            "change hangs",
        )
    if condition.died is not None and now - condition.died < DIED_S:
        text = f"the worker's thread died and was started again, {condition.deaths} times so far"
        return DiagnosticStatus.ERROR, f"{text}; the log has the reason", None
    if seconds > SLOW_S:
        return warn, f"a frame has been at work for {seconds:.0f} s, now in {where}", "hangs"
    if condition.clock_missing and silence > SILENCE_S:
        return warn, _NO_CLOCK, "clock"
    if condition.idle:
        return DiagnosticStatus.OK, "idle: nobody subscribes", None
    if summary.dropped_lately.get("not finite"):
        return DiagnosticStatus.ERROR, "the model gives NaN or infinity; the log has the remedy", None
    if summary.dropped_lately.get("failed"):
        return DiagnosticStatus.ERROR, "segmentation fails; the log has the reason", None
    if silence > SILENCE_S:
        if condition.obstacle:
            return warn, condition.obstacle, "silence"
        text = f"no image from {condition.topic} for {silence:.0f} s though it has a publisher"
        if condition.best_effort and last is None:
            text = f"{text}. {shared_memory.problem()}"
        return warn, text, "silence"
    if summary.dropped_lately.get("malformed"):
        return warn, "images cannot be read; the log has the reason", None
    if condition.best_effort and summary.lost_share > LOST_SHARE:
        text = f"{summary.lost_share:.0%} of the images from {condition.topic} are lost on the way"
        return warn, f"{text}, which this node's speed does not explain. {shared_memory.problem()}", "lost"
    if condition.missing:
        return warn, "; ".join(condition.missing), "missing"
    age = summary.age_ms[0]
    # Without delay, a frame is as old as two frames' time: it waits for the one before it.
    if age - 2 * summary.frame_ms[0] > OLD_MS or age < -AHEAD_MS:
        return warn, _NO_CLOCK if condition.clock_missing else _other_clock(age / 1e3, condition), "clock"
    if condition.size is not None and not condition.size.reached:
        text = f"target_rate is not reached: a frame takes {condition.size.frame_ms:.0f} ms"
        return warn, f"{text} at the smallest size too", None
    if condition.fallbacks:
        return warn, f"{condition.model} {', '.join(condition.fallbacks)}", None
    if condition.cache_problem:
        return warn, f"{condition.cache_problem}: new words take longer", None
    return DiagnosticStatus.OK, "waiting for images" if summary.published_hz == 0 else "segmenting", None


def _other_clock(age: float, condition: Condition) -> str:
    """That the images' stamps are of another clock, and which that may be.

    Args:
        age: of the images by the node's clock, in seconds.
        condition: tells which clock that is.
    """
    where = f"{age:.1f} s behind" if age > 0 else f"{-age:.1f} s ahead of"
    text = (
        f"the images' stamps are {where} the node's clock: tf, and depth and poses of other drivers, will "
        "not fit"
    )
    if condition.sim_time and abs(age) > FAR_S:
        return (
            f"{text}. use_sim_time is true, and the images seem to have the system's time: set use_sim_time "
            "to false here, or to true where the images come from"
        )
    if age > FAR_S:
        return (
            f"{text}. The images seem to come from a recording or a simulation: use 'ros2 bag play --clock' "
            "and set use_sim_time to true"
        )
    if condition.sim_time:
        return (
            f"{text}. Play the recording more slowly (ros2 bag play --rate 0.5), or slow the simulation, "
            "and let one program alone publish /clock"
        )
    return f"{text}. Synchronise the clocks of the machines (chrony, PTP), or correct the driver's stamps"


def lacks(missing: Missing, obstacle: str, topic: str, slop: float) -> str:
    """Why frames have no depth, pose or camera_info, and what to do.

    Args:
        missing: what the inputs know about it.
        obstacle: what the ROS graph tells about its topic; empty if it shows no reason.
        topic: the resolved name.
        slop: the parameter sync_slop, in seconds.
    """
    what = f"no {missing.name} for {missing.seconds:.0f} s"
    if missing.silence is None or missing.silence > SILENCE_S:
        if obstacle:
            return f"{what}: {obstacle}"
        return f"{what}: no message comes from {topic} though it has a publisher. {shared_memory.problem()}"
    if missing.late is not None:
        return (
            f"{what}: {topic} comes {missing.late:.2f} s after its images, too late. Make its driver faster, "
            "or delay the images"
        )
    if missing.offset is None:
        return what
    where = "ahead of" if missing.offset > 0 else "behind"
    return (
        f"{what}: the stamps of {topic} do not match the images'. The nearest is {abs(missing.offset):.3f} s "
        f"{where} its image; sync_slop allows {slop:g} s. Raise sync_slop, or synchronise the drivers' clocks"
    )


def values(condition: Condition, summary: Summary) -> dict[str, str]:
    """The figures by name."""
    figures = {
        "state": condition.state,
        "rate [Hz]": f"{summary.published_hz:.1f}",
        "key frame rate [Hz]": f"{summary.key_hz:.1f}",
        "propagated rate [Hz]": f"{summary.propagated_hz:.1f}",
        "input rate [Hz]": f"{summary.arrived_hz:.1f}",
        "input age p50 [ms]": _figure(summary.age_ms[0]),
        "input age p95 [ms]": _figure(summary.age_ms[1]),
        "latency p50 [ms]": _figure(summary.frame_ms[0]),
        "latency p95 [ms]": _figure(summary.frame_ms[1]),
    }
    figures |= {f"stage {stage} [ms]": _figure(ms) for stage, ms in summary.stages_ms.items()}
    if (size := condition.size) is not None:
        figures |= {
            "patches": f"{size.patches} of {size.of}",
            "patches: encoder [ms]": _figure(size.encoder_ms),
            "patches: frame [ms]": _figure(size.frame_ms),
            "patches: reason": size.reason,
        }
    figures["dropped"] = str(sum(summary.dropped.values()))
    figures |= {f"dropped: {reason}": str(count) for reason, count in sorted(summary.dropped.items())}
    return figures | {
        "worker restarts": str(condition.deaths),
        "lost on the way [%]": f"{summary.lost_share * 100:.0f}",
        "vocabulary version": str(condition.vocabulary_version),
        "vocabulary size": str(condition.vocabulary_size),
        "changes waiting": str(condition.changes_waiting),
        "model": condition.model,
        "device": condition.device,
        "memory fallback": "; ".join(condition.fallbacks),
        "embedding cache": condition.cache_problem or "ok",
        "memory [MB]": f"{_resident_bytes() / 1e6:.0f}",
    }


def _figure(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1f}"


def _resident_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
