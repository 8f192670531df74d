"""The node's parameters: what each means, what values it takes, and which may change while frames come in."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

from ovs_ros.options import (
    REFINEMENTS,
    REGIONS,
    RULES,
    SUPPRESSIONS,
    VALIDATIONS,
    SegmenterOptions,
)
from ovs_ros.steps.temporal_filter import SMOOTHINGS, TIME_CONSTANT_S
from ovs_ros.vocabulary.prompts import ATTRIBUTE_READING, ATTRIBUTE_READINGS, ATTRIBUTE_WEIGHT

POINTS = ("auto", "always", "never")
_DEFAULTS = SegmenterOptions()


@dataclass(frozen=True)
class Settings:
    """What may change between two frames.

    Attributes:
        options: the segmenter's.
        confidence: whether the confidence image is published.
        overlay_alpha: how much the colours cover in the overlay, in [0, 1].
        points: 'auto' (while somebody subscribes), 'always' or 'never'.
        smoothing: 'off', 'flow' or 'pose'.
        smoothing_time: seconds after which a frame's vote counts 1/e in the smoothing.
    """

    options: SegmenterOptions = _DEFAULTS
    confidence: bool = True
    overlay_alpha: float = 0.5
    points: str = "auto"
    smoothing: str = "off"
    smoothing_time: float = TIME_CONSTANT_S


@dataclass(frozen=True)
class _Spec:
    default: Any
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    read_only: bool = False

    def descriptor(self) -> ParameterDescriptor:
        text = self.description
        if self.choices:
            text += " One of: " + ", ".join(self.choices) + "."
        descriptor = ParameterDescriptor(description=text, read_only=self.read_only)
        if isinstance(self.default, float):
            descriptor.floating_point_range = [FloatingPointRange(from_value=self.low, to_value=self.high)]
        elif isinstance(self.default, int) and not isinstance(self.default, bool):
            descriptor.integer_range = [IntegerRange(from_value=self.low, to_value=self.high, step=1)]
        if self.choices:
            descriptor.additional_constraints = "one of: " + ", ".join(self.choices)
        return descriptor


_SPECS: dict[str, _Spec] = {
    "autostart": _Spec(True, "Configure and activate without being told to.", read_only=True),
    "preset": _Spec(
        "stream",
        "The model: 'stream' for speed, 'quality' for detail, or a model file (docs/guide/models.md).",
        read_only=True,
    ),
    "vocabulary": _Spec(
        "office",
        "The words at the start, and after reset_vocabulary: a YAML file, or the name of one that comes with "
        "the package (home, office, street, warehouse).",
        read_only=True,
    ),
    "compressed": _Spec(
        False, "Take sensor_msgs/CompressedImage from image/compressed instead of image.", read_only=True
    ),
    "attributes": _Spec(
        "off",
        "What words look like, mixed into their embeddings: 'off', 'shipped', or a YAML file laid over the "
        "shipped one.",
        read_only=True,
    ),
    "attribute_reading": _Spec(
        ATTRIBUTE_READING,
        "How attributes come into a word's embedding: one text for each, or one sentence.",
        choices=ATTRIBUTE_READINGS,
        read_only=True,
    ),
    "attribute_weight": _Spec(
        ATTRIBUTE_WEIGHT, "The attributes' share in a word's embedding.", 0.0, 1.0, read_only=True
    ),
    "second_encoder": _Spec(
        "off", "ONNX file of a second image encoder that is fused in; 'off' for none.", read_only=True
    ),
    "fusion": _Spec(
        "off", "What 'ovs train fusion' wrote for the second encoder; 'off' for none.", read_only=True
    ),
    "sync_slop": _Spec(
        0.02,
        "How many seconds the stamps of an image and of its depth, or its pose, may differ.",
        0.0001,
        10.0,
        read_only=True,
    ),
    "threshold": _Spec(
        _DEFAULTS.threshold,
        "Pixels whose best category is less probable are unknown, unless it has a threshold of its own.",
        0.0,
        1.0,
    ),
    "select": _Spec(_DEFAULTS.select, "Decide each frame among the few categories that it can hold."),
    "refine": _Spec(_DEFAULTS.refine, "Let the trained network refine the cosines of the selected words."),
    "refinement": _Spec(
        _DEFAULTS.refinement,
        "What image and patches do to the logits, untrained: 'propagation' lets patches that look alike "
        "agree, 'pamr' neighbours of like colour, 'guided' brings edges to the image's.",
        choices=REFINEMENTS,
    ),
    "theta": _Spec(
        _DEFAULTS.theta,
        "A category is selected if the whole image makes it more probable than this.",
        0.0,
        1.0,
    ),
    "max_categories": _Spec(
        _DEFAULTS.max_categories, "How many categories a frame is decided among at most.", 1, 65535
    ),
    "shortlist": _Spec(
        _DEFAULTS.shortlist,
        "How many categories take part in the selection; more are screened before.",
        1,
        65535,
    ),
    "rule": _Spec(
        _DEFAULTS.rule,
        "Which categories are selected; 'dcp': those that patches or the image elect, 'top_n': the best "
        "of every patch.",
        choices=RULES,
    ),
    "top_n": _Spec(_DEFAULTS.top_n, "How many categories a patch elects, with the rule top_n.", 1, 65535),
    "suppression": _Spec(
        _DEFAULTS.suppression,
        "How a category that dominates the image is held back in the selection.",
        choices=SUPPRESSIONS,
    ),
    "temperature": _Spec(
        _DEFAULTS.temperature,
        "The higher, the lower all confidences; 1 is calibrated as shipped.",
        0.001,
        1000.0,
    ),
    "validation": _Spec(
        _DEFAULTS.validation,
        "What happens to regions whose features do not bear their name out: 'relabel' gives them the best "
        "name, 'reject' makes them unknown.",
        choices=VALIDATIONS,
    ),
    "validation_top_k": _Spec(
        _DEFAULTS.validation_top_k,
        "A region keeps its name if it is among this many best ones.",
        1,
        65535,
    ),
    "validation_region": _Spec(
        _DEFAULTS.validation_region,
        "What a region is: each connected part of a category, or all of a category's pixels.",
        choices=REGIONS,
    ),
    "validate_seen": _Spec(
        _DEFAULTS.validate_seen, "Check regions of names too that the model was trained with."
    ),
    "confidence": _Spec(True, "Publish semantic/confidence."),
    "overlay_alpha": _Spec(0.5, "How much the colours cover in semantic/overlay.", 0.0, 1.0),
    "points": _Spec(
        "auto", "When to publish semantic/points; 'auto': while somebody subscribes.", choices=POINTS
    ),
    "smoothing": _Spec(
        "off",
        "Let frames agree on names over time; 'flow' follows the picture by optical flow, 'pose' follows "
        "points by depth, camera_info and the topic pose.",
        choices=SMOOTHINGS,
    ),
    "smoothing_time": _Spec(
        TIME_CONSTANT_S, "Seconds after which a frame's vote counts 1/e in the smoothing.", 0.05, 10.0
    ),
}
_OPTIONS = (
    "threshold",
    "select",
    "refine",
    "refinement",
    "theta",
    "max_categories",
    "shortlist",
    "rule",
    "top_n",
    "suppression",
    "temperature",
    "validation",
    "validation_top_k",
    "validation_region",
    "validate_seen",
)
_OTHERS = ("confidence", "overlay_alpha", "points", "smoothing", "smoothing_time")
_NOT_OURS = ("use_sim_time", "start_type_description_service", "qos_overrides.")


class Parameters:
    """Declares the parameters, and keeps `settings` as they are.

    Attributes:
        settings: replaced as a whole when parameters change: who reads it once sees no mixture.
        on_change: set it to be told; called without arguments after each change.

    Raises:
        rclpy.exceptions.InvalidParameterValueException: a value from outside is out of range.
        rclpy.exceptions.InvalidParameterTypeException: a value from outside has another type.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self.settings = Settings()
        self.on_change = _nothing
        # Before the declarations: rclpy checks what comes from outside with the callback too.
        node.add_on_set_parameters_callback(self._check)
        for name, spec in _SPECS.items():
            node.declare_parameter(name, spec.default, spec.descriptor())
        node.add_post_set_parameters_callback(self._apply)
        self._apply([node.get_parameter(name) for name in (*_OPTIONS, *_OTHERS)])

    def __getitem__(self, name: str) -> Any:
        """A parameter's value."""
        return self._node.get_parameter(name).value

    def misspelt(self, given: Sequence[str]) -> list[str]:
        """What to say about names that were given from outside and that no parameter has."""
        known = list(_SPECS)
        messages = []
        for name in given:
            if name in _SPECS or name.startswith(_NOT_OURS):
                continue
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(known)}"
            messages.append(f"The parameter '{name}' does not exist and is ignored; {hint}")
        return messages

    def _check(self, parameters: list[Parameter]) -> SetParametersResult:
        for parameter in parameters:
            spec = _SPECS.get(parameter.name)
            if spec is None or parameter.type_ == Parameter.Type.NOT_SET:
                continue
            if spec.choices and parameter.value not in spec.choices:
                choices = ", ".join(spec.choices)
                return _refused(f"expected {parameter.name} to be one of {choices}, got {parameter.value!r}")
        try:
            _changed(self.settings, parameters)
        except (TypeError, ValueError) as error:
            return _refused(str(error))
        return SetParametersResult(successful=True)

    def _apply(self, parameters: list[Parameter]) -> None:
        settings = _changed(self.settings, parameters)
        if settings != self.settings:
            self.settings = settings
            self.on_change()


def _changed(settings: Settings, parameters: Sequence[Parameter]) -> Settings:
    options = {p.name: p.value for p in parameters if p.name in _OPTIONS}
    others = {p.name: p.value for p in parameters if p.name in _OTHERS}
    return replace(settings, options=replace(settings.options, **options), **others)


def _refused(reason: str) -> SetParametersResult:
    return SetParametersResult(successful=False, reason=reason)


def _nothing() -> None:
    pass
