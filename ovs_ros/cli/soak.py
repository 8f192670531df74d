"""`ovs soak`: a long run of the node, which finds what grows."""

from pathlib import Path
from typing import Annotated

import typer

from ovs_ros.cli.common import run_ros_module
from ovs_ros.cli.options import with_flags


@with_flags()
def soak(
    minutes: Annotated[
        float, typer.Option(min=0.05, help="How long, from the first label image on; judged from 10 on.")
    ] = 30.0,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for soak.csv and soak.png.")] = (
        Path("soak_output")
    ),
    rate: Annotated[float, typer.Option(min=0.1, help="The camera's frames a second.")] = 15.0,
    change_every: Annotated[
        float, typer.Option(min=0.1, help="Seconds between two changes of the words.")
    ] = 10.0,
) -> None:
    """Run a camera and the real node for long, and measure how private memory, open files, threads and
    latency change.

    Somebody subscribes to labels, overlay and points meanwhile, and changes the words again and again. It
    ends with 1 if the node ends, fails, refuses a change or stops, or if memory, open files or threads rise.
    It needs ROS 2.
    """
    output.mkdir(parents=True, exist_ok=True)
    run_ros_module("soak", [str(output), str(minutes), str(rate), str(change_every)])
