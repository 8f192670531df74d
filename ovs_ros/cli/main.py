"""The command `ovs`."""

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from ovs_ros.cli import train, vocabulary
from ovs_ros.cli.adapt import adapt
from ovs_ros.cli.bench import bench
from ovs_ros.cli.common import print_error
from ovs_ros.cli.evaluate import evaluate
from ovs_ros.cli.export import export
from ovs_ros.cli.flicker import flicker
from ovs_ros.cli.models import models
from ovs_ros.cli.segment import segment
from ovs_ros.cli.soak import soak
from ovs_ros.cli.temperature import temperature

# A pipe without UTF-8 (cron, containers without a locale) gets escapes instead of an error.
for _stream in (sys.stdout, sys.stderr):
    if hasattr(_stream, "reconfigure"):
        _stream.reconfigure(errors="backslashreplace")

# typer brings a click of its own since 0.20, so that no import of click names this class in every version.
_UsageError: Any = typer.BadParameter.__base__


class _OneLineErrors(TyperGroup):
    """Ends a wrong command line as `user_errors` ends a wrong value: with code 2 and one line."""

    def main(self, args: Any = None, *, standalone_mode: bool = True, **more: Any) -> Any:  # type: ignore[override]
        if not standalone_mode:
            return super().main(args, standalone_mode=False, **more)
        try:
            code = super().main(args, standalone_mode=False, **more)
        except _UsageError as error:
            if type(error).__name__ == "NoArgsIsHelpError":
                error.show()
            else:
                command = error.ctx.command_path if error.ctx else "ovs"
                print_error(f"{error.format_message().rstrip('.')}; see '{command} --help'")
            code = error.exit_code
        except typer.Abort:
            code = 130
        sys.exit(code if isinstance(code, int) else 0)


app = typer.Typer(cls=_OneLineErrors, help="Open-vocabulary segmentation without ROS.", no_args_is_help=True)
app.command()(segment)
app.command()(evaluate)
app.command()(bench)
app.command()(export)
app.command()(flicker)
app.command()(adapt)
app.command()(temperature)
app.command()(models)
app.command()(soak)
app.add_typer(vocabulary.app, name="vocabulary")
app.add_typer(train.app, name="train")
