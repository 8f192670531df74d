"""The node's parameters, as `ovs_ros.options` declares them."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from ovs_ros.options import LoadOptions, NodeOptions, Option, SegmenterOptions, node_options
from ovs_ros.runtime.quoting import quoted

_Group = TypeVar("_Group", LoadOptions, SegmenterOptions, NodeOptions)
_NOT_OURS = ("use_sim_time", "start_type_description_service", "qos_overrides.")


class Settings(NamedTuple):
    """The values of all parameters: which model is loaded and how, how a frame is decided, and the rest."""

    load: LoadOptions = LoadOptions()
    segmenter: SegmenterOptions = SegmenterOptions()
    node: NodeOptions = NodeOptions()


class Parameters:
    """Declares the parameters, and keeps their values.

    Attributes:
        settings: replaced as a whole when parameters change, so that a reader sees no mixture.
        on_change: called after each change.

    Raises:
        rclpy.exceptions.InvalidParameterValueException: a value from outside has another type or is out of
            range.
    """

    def __init__(self, node: Node) -> None:
        self.settings = Settings()
        self.on_change: Callable[[], None] = lambda: None
        self._options = node_options()
        # Before the declarations: rclpy hands what comes from outside to the callback too.
        node.add_on_set_parameters_callback(self._set)
        for name, option in self._options.items():
            node.declare_parameter(name, option.default, descriptor(option))

    def misspelt(self, given: Sequence[str]) -> list[str]:
        """One message for each given name that no parameter has."""
        messages = []
        for name in given:
            if name in self._options or name.startswith(_NOT_OURS):
                continue
            near = difflib.get_close_matches(name[:100], self._options, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(self._options)}"
            messages.append(f"The parameter {quoted(name)} does not exist and is ignored; {hint}")
        return messages

    def _set(self, parameters: list[Parameter]) -> SetParametersResult:
        """Check values and take them all, or none. rclpy has checked before that the parameters are live."""
        values = {p.name: p.value for p in parameters if p.name in self._options}
        deleted = [name for name, value in values.items() if value is None]
        if deleted:
            reason = f"expected a value for {deleted[0]}, got none; a parameter cannot be deleted"
            return SetParametersResult(successful=False, reason=reason)
        try:
            load, segmenter, rest = self.settings
            settings = Settings(_changed(load, values), _changed(segmenter, values), _changed(rest, values))
        except (TypeError, ValueError) as error:
            return SetParametersResult(successful=False, reason=str(error))
        if settings != self.settings:
            self.settings = settings
            self.on_change()
        return SetParametersResult(successful=True)


def _changed(group: _Group, values: Mapping[str, Any]) -> _Group:
    return replace(group, **{name: value for name, value in values.items() if hasattr(group, name)})


def descriptor(option: Option) -> ParameterDescriptor:
    """The descriptor of an option.

    Types are checked by `Option.checked` and not by rclpy, which refuses whole numbers for fractions.
    """
    result = ParameterDescriptor(description=option.text, read_only=not option.live, dynamic_typing=True)
    if option.choices:
        result.additional_constraints = "one of: " + ", ".join(option.choices)
    if option.limits is None:
        return result
    low, high = option.limits
    if option.kind is float:
        result.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    else:
        result.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=1)]
    return result
