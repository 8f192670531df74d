"""Flags of the command line, made from the declared options."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import is_dataclass, replace
from inspect import Parameter, Signature, get_annotations, signature
from types import MappingProxyType
from typing import Annotated, Any

import typer

from ovs_ros.cli.common import user_errors
from ovs_ros.options import Option, declared


def with_flags(
    leave_out: Iterable[str] = (), defaults: Mapping[str, Any] = MappingProxyType({})
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command a flag for each option of its parameters that are dataclasses of options.

    A command with the parameter `options: SegmenterOptions` gets `--threshold`, `--select/--no-select` and so
    on, and is called with the dataclass. Values are checked as everywhere else (`Option.checked`). A user's
    error ends the command in one line.

    Args:
        leave_out: options that get no flag, and keep their defaults.
        defaults: of options that have another default in this command.
    """

    def equip(command: Callable[..., None]) -> Callable[..., None]:
        # Not get_type_hints: on Python 3.10 it wraps what has the default None, and hides the flag's name.
        hints = get_annotations(command, eval_str=True)
        groups = {
            name: {
                n: replace(option, default=defaults.get(n, option.default))
                for n, option in declared(hint).items()
                if n not in leave_out
            }
            for name, hint in hints.items()
            if isinstance(hint, type) and is_dataclass(hint)
        }

        def run(**given: Any) -> None:
            with user_errors():
                for name, options in groups.items():
                    given[name] = hints[name](**{option: given.pop(option) for option in options})
                command(**given)

        parameters: list[Parameter] = []
        for parameter in signature(command).parameters.values():
            if parameter.name in groups:
                parameters += [_flag(option) for option in groups[parameter.name].values()]
            else:
                parameters.append(
                    parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=hints[parameter.name])
                )
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return equip


def _flag(option: Option) -> Parameter:
    annotation = Annotated[option.kind, typer.Option(help=option.text)]  # type: ignore[name-defined]
    return Parameter(option.name, Parameter.KEYWORD_ONLY, default=option.default, annotation=annotation)
