"""The node as a process of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

from domain import own_domain

DEADLINE_S = 60.0


class NodeProcess:
    """The node as a process, its output in a file; `program` follows the interpreter's name."""

    def __init__(
        self,
        log: Path,
        environment: dict[str, str],
        parameters: dict[str, str],
        program: Sequence[str] = ("-m", "ovs_ros.ros.node"),
    ) -> None:
        self._log = log
        arguments = [part for name, value in parameters.items() for part in ("-p", f"{name}:={value}")]
        command = [sys.executable, *program, "--ros-args", *arguments]
        with log.open("wb") as output:
            self.popen = subprocess.Popen(
                command, env=environment, cwd=log.parent, stdout=output, stderr=subprocess.STDOUT
            )

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition; the process may not end before it holds."""
        end = monotonic() + DEADLINE_S
        while not condition():
            assert self.popen.poll() is None, self.said
            assert monotonic() < end, self.said
            sleep(0.01)

    def has_loaded(self, library: str) -> bool:
        """Whether the process has a shared library open."""
        return library in Path(f"/proc/{self.popen.pid}/maps").read_text()

    def end(self, number: int = signal.SIGINT) -> tuple[int, float]:
        """Send a signal: the exit status, and after how many seconds it came."""
        began = monotonic()
        self.popen.send_signal(number)
        return self.popen.wait(DEADLINE_S), monotonic() - began


@contextmanager
def node_process(
    folder: Path, drop: tuple[str, ...] = (), environment: dict[str, str] | None = None, **parameters: str
) -> Iterator[NodeProcess]:
    with own_domain() as domain:
        inherited = {name: value for name, value in os.environ.items() if name not in drop}
        given = {**inherited, "ROS_DOMAIN_ID": str(domain), "PYTHONUNBUFFERED": "1", **(environment or {})}
        process = NodeProcess(folder / "log", given, parameters)
        try:
            yield process
        finally:
            process.popen.kill()
            process.popen.wait()
