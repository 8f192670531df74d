"""The command `ovs`."""

import sys

import typer

from ovs_ros.cli import train, vocabulary
from ovs_ros.cli.adapt import adapt
from ovs_ros.cli.bench import bench
from ovs_ros.cli.evaluate import evaluate
from ovs_ros.cli.export import export
from ovs_ros.cli.flicker import flicker
from ovs_ros.cli.models import models
from ovs_ros.cli.segment import segment
from ovs_ros.cli.temperature import temperature

# A pipe without UTF-8 (cron, containers without a locale) gets escapes instead of an error.
for _stream in (sys.stdout, sys.stderr):
    if hasattr(_stream, "reconfigure"):
        _stream.reconfigure(errors="backslashreplace")

app = typer.Typer(help="Open-vocabulary segmentation without ROS.", no_args_is_help=True)
app.command()(segment)
app.command()(evaluate)
app.command()(bench)
app.command()(export)
app.command()(flicker)
app.command()(adapt)
app.command()(temperature)
app.command()(models)
app.add_typer(vocabulary.app, name="vocabulary")
app.add_typer(train.app, name="train")
