"""The demonstration: a camera, the node and a viewer, three processes that exchange messages over DDS.

python -m ovs_ros.ros.demo --source motorcycle --output demo_output
"""

import argparse
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import sleep

from ovs_ros.ros import shared_memory
from ovs_ros.vocabulary.vocabulary import Vocabulary, VocabularyError
from ovs_ros.vocabulary.yaml_io import dump_vocabulary

NODE = "ovs"
HIGHEST_DOMAIN = 101
"""The highest ROS domain whose ports do not reach into Linux' ephemeral range."""
LOWEST_DOMAIN = 52
"""Of demonstrations and measurements; those below are left to tests."""
LOG_LINES = 25
GRACE_S = 10.0

WORDS = {
    "motorcycle": "motorcycle, floor, wall, shelf, door, cardboard box",
    "scene": "floor, wall, ceiling, door, window, table, chair, cabinet, shelf, person",
}
THEN_WORDS = {
    "motorcycle": "motorbike, concrete floor, wooden wall, cupboard, box",
    "scene": "counter, sink, refrigerator, bottle, box, picture, floor, wall, cabinet, chair",
}


@dataclass
class Process:
    """A part of the demonstration; `log` is None where it writes to the terminal."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path | None

    def stop(self) -> None:
        """End it, and after GRACE_S for good."""
        if self.popen.poll() is None:
            self.popen.terminate()  # Not SIGINT: it leaves a traceback while modules load.
            try:
                self.popen.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()

    def last_words(self) -> str:
        """The end of its log."""
        if self.log is None:
            return ""
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        return "\n".join(
            [f"--- {self.name}: the last lines of {self.log}", *(f"    {line}" for line in lines)]
        )


def isolated_environment() -> dict[str, str]:
    """This environment with a DDS domain of its own, on this host, and the profile for large messages."""
    return {
        **os.environ,
        "ROS_DOMAIN_ID": str(LOWEST_DOMAIN + secrets.randbelow(HIGHEST_DOMAIN - LOWEST_DOMAIN + 1)),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        **dict.fromkeys(shared_memory.VARIABLES, str(shared_memory.profile())),
        "PYTHONUNBUFFERED": "1",
    }


def start(name: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path | None) -> Process:
    """Start a module of this package as a process of its own, its output in `log` or on the terminal."""
    command = [sys.executable, "-m", f"ovs_ros.ros.{name}", *arguments]
    with log.open("wb") if log else nullcontext() as output:
        popen = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT if log else None
        )
    return Process(name.removeprefix("demo."), popen, log)


def first_to_end(processes: Sequence[Process]) -> Process:
    """Wait until one of them ends."""
    while True:
        for process in processes:
            if process.popen.poll() is not None:
                return process
        sleep(0.1)


def run(
    source: str,
    words: Vocabulary,
    then: str,
    output: Path,
    frames: int,
    rate: float,
    parameters: Mapping[str, str],
) -> int:
    """Run the three processes until the viewer is done.

    Args:
        source, frames, rate: as on the command line.
        words: what to look for.
        then: what to look for after half of the frames.
        output: folder for what is saved.
        parameters: of the node.

    Returns:
        0, or 1 if one of them failed; the logs' ends are then on stderr.
    """
    logs = output / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    vocabulary = output / "vocabulary.yaml"
    dump_vocabulary(words, vocabulary)
    environment = isolated_environment()
    node = ["--ros-args", "-r", f"__node:={NODE}", "-p", f"vocabulary:={vocabulary}"]
    node += [part for name, value in parameters.items() for part in ("-p", f"{name}:={value}")]
    camera = ["--source", source, "--rate", str(rate)]
    viewer = ["--output", str(output), "--node", NODE, "--words", then, "--frames", str(frames)]
    processes: list[Process] = []
    try:
        for name, arguments, log in (
            ("node", node, logs / "node.log"),
            ("demo.camera", camera, logs / "camera.log"),
            ("demo.viewer", viewer, None),
        ):
            processes.append(start(name, arguments, environment, log))
        ended = first_to_end(processes)
    except KeyboardInterrupt:
        return 1
    finally:
        for process in reversed(processes):
            process.stop()
    code = ended.popen.returncode
    if ended.name == "viewer" and code == 0:
        return 0
    print(f"demo: the {ended.name} ended too early, with exit status {code}", file=sys.stderr)
    for process in processes:
        print(process.last_words(), file=sys.stderr)
    return 1


def main() -> None:
    """Run the demonstration."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--source", default="motorcycle", help="motorcycle, a folder, a video file or a webcam's number"
    )
    parser.add_argument("--words", help="what to look for, with commas between the words")
    parser.add_argument("--then", help="what to look for after half of the frames")
    parser.add_argument("--output", type=Path, default=Path("demo_output"), help="folder for what is saved")
    parser.add_argument("--frames", type=int, default=120, help="how many frames to wait for")
    parser.add_argument("--rate", type=float, default=15.0, help="the camera's frames a second")
    parser.add_argument("--model", default="stream", help="stream or quality")
    parser.add_argument(
        "--propagate", default="off", choices=["off", "flow"], help="carry labels to frames in between"
    )
    arguments = parser.parse_args()
    if arguments.frames < 2:
        parser.error(f"--frames must be at least 2, one for each vocabulary, not {arguments.frames}")
    scene = "motorcycle" if arguments.source == "motorcycle" else "scene"
    names = (arguments.words or WORDS[scene]).split(",")
    try:
        words = Vocabulary.from_names(name for name in names if name.strip())
    except VocabularyError as error:
        parser.error(f"--words: {error}")
    sys.exit(
        run(
            arguments.source,
            words,
            arguments.then or THEN_WORDS[scene],
            arguments.output,
            arguments.frames,
            arguments.rate,
            {"model": arguments.model, "propagate": arguments.propagate},
        )
    )


if __name__ == "__main__":
    main()
