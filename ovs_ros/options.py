"""Every option once: type, range or choices, default, help, and whether it can change while frames come in.

The node's parameters, `config/ovs.yaml`, the docs' table of parameters and the command line's flags are made
from these declarations. `python -m ovs_ros.options` writes the file and the table.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from functools import cache, partial
from math import inf
from numbers import Real
from pathlib import Path
from textwrap import wrap
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from ovs_ros.runtime.image_size import MAX_MEGAPIXELS
from ovs_ros.runtime.quoting import quoted
from ovs_ros.transports import PLUGINS, republish

Rule = Literal["dcp", "top_n"]
Postprocess = Literal["none", "pamr", "propagation"]
Validation = Literal["off", "relabel", "reject"]
ImageTransport = Literal["raw", "compressed"]
PoseSource = Literal["topic", "tf"]
DepthTransport = Literal["raw", "compressedDepth"]
Points = Literal["auto", "always", "never"]
PointsColor = Literal["image", "label"]
TemporalFilterKind = Literal["off", "flow", "pose"]
Propagate = Literal["off", "flow", "depth"]
PropagateFill = Literal["nearest", "unknown"]

_Value = TypeVar("_Value")

OFF = "off"
_CAMERA_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*")
TABLE_START, TABLE_END = "<!-- parameters: begin -->", "<!-- parameters: end -->"


@dataclass(frozen=True)
class Option:
    """One declared option.

    Attributes:
        name: in Python, YAML and ROS; on the command line with hyphens.
        kind: bool, int, float or str; of a list, its items'.
        default: its value unless told otherwise.
        help: what it does, as sentences.
        limits: the range of numbers, ends included; None: not a number.
        choices: the values of a string; empty: any.
        live: can change while frames come in.
        node: is a parameter of the node.
        many: is a list, kept as a tuple; one value counts as a list of one.
    """

    name: str
    kind: type
    default: Any
    help: str
    limits: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    live: bool = False
    node: bool = True
    many: bool = False

    @property
    def text(self) -> str:
        """The help, with the choices or the range."""
        if self.choices:
            return f"{self.help} One of: {', '.join(self.choices)}."
        if self.limits is None:
            return self.help
        low, high = self.limits
        return f"{self.help} At least {low:g}." if high == inf else f"{self.help} {low:g} to {high:g}."

    def checked(self, value: object) -> Any:
        """The value in the option's type.

        A list becomes a tuple. Whole numbers are taken for numbers with a fraction. YAML reads an unquoted
        off as false, so false is taken for 'off' where that is a choice.

        Raises:
            TypeError: the value has another type.
            ValueError: the value is out of range or no choice.
        """
        if self.many:
            if isinstance(value, str) or not isinstance(value, Iterable):
                value = (value,)
            items = tuple(replace(self, many=False).checked(item) for item in value)
            if not items:
                raise ValueError(f"expected {self.name} to be a list with items, got an empty one")
            return items
        if self.choices:
            if value is False and OFF in self.choices:
                value = OFF
            if value not in self.choices:
                raise ValueError(
                    f"expected {self.name} to be one of {', '.join(self.choices)}, got {quoted(value)}"
                )
            return value
        if self.kind is bool or self.kind is str:
            if not isinstance(value, self.kind):
                what = "true or false" if self.kind is bool else "text (in YAML, in quotes)"
                raise TypeError(f"expected {self.name} to be {what}, got {quoted(value)}")
            return value
        what = "a whole number" if self.kind is int else "a number"
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"expected {self.name} to be {what}, got {quoted(value)}")
        number = float(value)
        if self.kind is int and not number.is_integer():
            raise TypeError(f"expected {self.name} to be {what}, got {quoted(value)}")
        assert self.limits is not None
        low, high = self.limits
        if not low <= number <= high:  # NaN is out of every range.
            raise ValueError(f"expected {self.name} from {low:g} to {high:g}, got {quoted(value)}")
        return self.kind(number)


def _option(
    default: Any,
    text: str,
    limits: tuple[float, float] | None = None,
    *,
    live: bool = False,
    node: bool = True,
) -> Any:
    return field(default=default, metadata={"help": text, "limits": limits, "live": live, "node": node})


_live = partial(_option, live=True)
_research = partial(_option, live=True, node=False)


@cache
def declared(group: Any) -> dict[str, Option]:
    """The options of a dataclass of options, by name, in their order."""
    hints = get_type_hints(group)
    found = {}
    for one in fields(group):
        hint = hints[one.name]
        many = get_origin(hint) is tuple
        choices = get_args(hint) if get_origin(hint) is Literal else ()
        kind = get_args(hint)[0] if many else str if choices else hint
        found[one.name] = Option(one.name, kind, one.default, choices=choices, many=many, **one.metadata)
    return found


class _Checked:
    """A dataclass of options whose fields are checked and brought to their types when it is made.

    Raises:
        TypeError: a field has another type.
        ValueError: a field is out of its range.
    """

    def __post_init__(self) -> None:
        for name, option in declared(type(self)).items():  # type: ignore[arg-type]  # classes hash
            object.__setattr__(self, name, option.checked(getattr(self, name)))


@dataclass(frozen=True)
class LoadOptions(_Checked):
    """Which model is loaded, and how. Each field's declaration says what it does."""

    model: str = _option(
        "stream",
        "The model: 'stream' (fast), 'quality' (detailed), or a model file (see the guide on models).",
    )
    device: str = _option(
        "auto", "Where the model runs: 'auto' (a GPU where there is one), 'cpu', 'cuda' or 'cuda:N'."
    )
    threads: int = _option(
        0,
        "How many threads of the CPU the process computes with; 0: one for each core that it may use, by its "
        "affinity, its container's CPU quota and OMP_NUM_THREADS.",
        (0, 1024),
    )
    negatives: str = _option(
        "generic",
        "Words that compete for pixels beside a vocabulary without negative words: 'generic' (a few "
        "that fit most pictures), 'off', or words separated by commas. Pixels that they win are unknown.",
    )
    attributes: str = _option(
        OFF,
        "What words look like (LMSeg), mixed into their embeddings: 'off', 'shipped', or a YAML file merged "
        "over the shipped one.",
        node=False,
    )
    attribute_weight: float = _option(
        0.1, "The attributes' share in a word's embedding.", (0.0, 1.0), node=False
    )
    second_encoder: str = _option(
        OFF, "ONNX file of a second image encoder (LMSeg) that is fused in; 'off' for none.", node=False
    )
    fusion: str = _option(
        OFF, "What 'ovs train fusion' wrote for the second encoder; 'off' for none.", node=False
    )

    def arguments(self) -> dict[str, Any]:
        """What `ovs_ros.load` takes beside the model's name."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "model"}


@dataclass(frozen=True)
class SegmenterOptions(_Checked):
    """How a frame is decided; all can change between frames. Each field's declaration says what it does.

    Raises:
        TypeError, ValueError: a field has another type, or is out of its range.
    """

    threshold: float = _live(
        0.0,
        "Pixels whose best category is less probable are unknown, unless the category has its own threshold.",
        (0.0, 1.0),
    )
    select: bool = _live(
        True, "Select for each frame the few categories that it can hold; false: decide among all of them."
    )
    max_categories: int = _live(32, "How many categories a frame is decided among at most.", (1, 65535))
    network: bool = _live(
        True,
        "Run the trained network over the logits of the selected categories, if the model has one. The "
        "embedded model as it ships has none.",
    )
    postprocess: Postprocess = _live(
        "none",
        "Clean up the logits without training: 'pamr' lets neighbours of similar colour agree, 'propagation' "
        "patches that look alike.",
    )
    temperature: float = _live(
        1.0,
        "Divides the logits: the higher, the lower all confidences. 1 is calibrated as shipped. It changes "
        "labels only through thresholds.",
        (0.001, 1000.0),
    )
    rule: Rule = _research(
        "dcp",
        "Which categories are selected: 'dcp' (DCP-CLIP, equations 1 to 5), or 'top_n' (FGAseg: the top_n "
        "best of every patch).",
    )
    top_n: int = _research(1, "How many categories each patch selects with the rule top_n.", (1, 65535))
    theta: float = _research(
        0.5,
        "A category is selected in any case if the whole image makes it more probable than this.",
        (0.0, 1.0),
    )
    shortlist: int = _research(
        192,
        "How many categories take part in the selection; of more, the nearest are found first.",
        (1, 65535),
    )
    validation: Validation = _research(
        OFF,
        "What happens to a region whose mean feature does not fit its name (DCP-CLIP, equation 17): "
        "'relabel' gives it the best name, 'reject' makes it unknown.",
    )
    validation_top_k: int = _research(
        5, "A region keeps its name if the name is among this many best ones.", (1, 65535)
    )
    validate_seen: bool = _research(
        False, "Validate also the names that the model was trained with, which DCP-CLIP leaves out."
    )


@dataclass(frozen=True)
class NodeOptions(_Checked):
    """What concerns the node alone. Each field's declaration says what it does."""

    autostart: bool = _option(True, "Configure and activate at start, without a lifecycle manager.")
    exit_on_failure: bool = _option(
        False, "End the process with an error if the node cannot be configured or activated."
    )
    vocabulary: str = _option(
        "office",
        "The words at the start and after reset_vocabulary: a YAML file, or the name of one that comes with "
        "the package (home, office, street, warehouse).",
    )
    state_file: str = _option(
        "",
        "A file for this node alone, which keeps the words of run time, what was taught included, over a "
        "restart; empty: they are lost.",
    )
    vocabulary_folder: str = _option(
        "",
        "A folder of YAML files that ~/load_vocabulary may read beside the shipped ones; empty: those alone.",
    )
    lock_vocabulary: bool = _live(
        False, "Refuse all services and actions that change words. Whoever may set parameters can undo it."
    )
    cameras: tuple[str, ...] = _option(
        ("",),
        "The cameras' names, each with topics of its own: those of 'front' are front/image, "
        "front/semantic/image_raw and so on. An empty name: image, semantic/image_raw and so on.",
    )
    image_transport: ImageTransport = _option(
        "raw",
        "How images come: 'raw', as Image on image, or 'compressed', as CompressedImage (JPEG, PNG and "
        "others) on image/compressed.",
    )
    depth_transport: DepthTransport = _option(
        "raw",
        "How depth comes: 'raw', as Image on depth, or 'compressedDepth', as CompressedImage (PNG or RVL) on "
        "depth/compressedDepth.",
    )
    max_megapixels: float = _live(
        MAX_MEGAPIXELS,
        "Compressed images whose header claims more millions of pixels are not decoded.",
        (0.1, 1000.0),
    )
    sync_slop: float = _option(
        0.02, "How many seconds the stamps of an image and of its depth or pose may differ.", (0.0001, 10.0)
    )
    rotation: tuple[int, ...] = _option(
        (0,),
        "By how many degrees images have to be turned clockwise to stand upright, because the camera is "
        "mounted turned: 0, 90, 180 or 270. The model sees them upright, and outputs are turned back. One "
        "number for each camera, or one for all.",
        (0, 270),
    )
    body_mask: tuple[str, ...] = _option(
        ("",),
        "A PNG file of the image's size, not black where the camera sees the robot itself: those pixels are "
        "unknown in all outputs. One for each camera, or one for all; empty: none.",
    )
    rectify: bool = _live(
        False,
        "Rectify raw images, and their depth, by camera_info before they are segmented; all outputs are of "
        "the rectified image. Images whose topic has the word rect in its name are rectified already.",
    )
    cloud_slop: float = _live(
        0.5,
        "How many seconds the stamps of a cloud and of the image that labels it may differ.",
        (0.001, 10.0),
    )
    fixed_frame: str = _live(
        "odom",
        "A frame of tf that stays where it is while the robot moves, between an image and a cloud, or from "
        "frame to frame for pose_source 'tf'; empty, or unknown to tf: none.",
    )
    lazy: bool = _live(
        True,
        "Subscribe to a camera and segment its images only while somebody subscribes to what comes of them; "
        "false: always.",
    )
    points: Points = _live("auto", "When to publish semantic/points; 'auto': while somebody subscribes.")
    points_color: PointsColor = _live(
        "image",
        "The colours of semantic/points and semantic/cloud: the camera's ('image') or those of "
        "semantic/overlay ('label').",
    )
    views: tuple[str, ...] = _option(
        ("",),
        "Label views to publish: names of those that come with the package (cost, nav2, nvblox) and YAML "
        "files. An empty name: none.",
    )
    channels: tuple[str, ...] = _option(
        ("",),
        "Words that get a channel each in semantic/channels, an image of probabilities. An empty word: none.",
    )
    instances: bool = _option(
        False,
        "Publish connected regions of one word as semantic/instances, semantic/detections and "
        "semantic/detections_3d.",
    )
    instance_share: float = _live(
        0.002, "The share of the image's pixels that an instance has at least.", (0.0, 1.0)
    )
    temporal_filter: TemporalFilterKind = _live(
        OFF,
        "Let frames vote on names over time: 'flow' follows pixels by optical flow, 'pose' follows points by "
        "depth, camera_info and pose.",
    )
    pose_source: PoseSource = _live(
        "topic",
        "Where the temporal filter 'pose' and propagate 'depth' have the camera's pose from: 'topic' (pose), "
        "or 'tf' (where the image's frame lies in fixed_frame).",
    )
    temporal_filter_time: float = _live(
        0.5, "Seconds after which a frame's vote in the temporal filter counts 1/e.", (0.05, 10.0)
    )
    metrics_port: int = _option(
        0,
        "A port on 127.0.0.1 where Prometheus gets the figures of /diagnostics while the node is configured; "
        "0: none. It needs prometheus_client.",
        (0, 65535),
    )
    propagate: Propagate = _option(
        OFF,
        "Give every frame labels at once, carried from the newest frame that was segmented (the key frame): "
        "'flow' by optical flow, 'depth' by depth, camera_info and pose. 'off': each frame gets its own "
        "labels, or none.",
    )
    propagate_fill: PropagateFill = _live(
        "nearest",
        "What pixels get that the key frame does not show: 'nearest', its label nearest to where they should "
        "be, or 'unknown'.",
    )
    priorities: tuple[float, ...] = _live(
        (1.0,),
        "How many frames the cameras get in relation to each other when there is no time for all: one number "
        "for each camera, or one for all.",
        (0.01, 100.0),
    )
    max_rate: tuple[float, ...] = _live(
        (0.0,),
        "How many images of a camera are segmented a second at most; others are dropped at once. One number "
        "for each camera, or one for all; 0: as many as there is time for.",
        (0.0, 1000.0),
    )
    target_rate: float = _live(
        0.0,
        "How many images the node is to segment a second, those of all cameras together: while it is too "
        "slow, they are cut into fewer patches, and never into more than the model's own size has. 0: always "
        "the model's own size.",
        (0.0, 1000.0),
    )

    def __post_init__(self) -> None:
        if self.image_transport in PLUGINS:
            raise ValueError(
                f"expected image_transport to be one of raw, compressed, got '{self.image_transport}'; "
                f"{republish(self.image_transport)}"
            )
        super().__post_init__()
        for name in self.cameras:
            if name and not _CAMERA_NAME.fullmatch(name):
                raise ValueError(
                    "expected cameras to be names of letters, digits and '_' that do not start with a digit, "
                    f"got {name!r}"
                )
        if len(set(self.cameras)) < len(self.cameras):
            raise ValueError(f"expected cameras to have different names, got {', '.join(self.cameras)}")
        for name in ("priorities", "max_rate", "rotation", "body_mask"):
            if len(values := getattr(self, name)) not in (1, len(self.cameras)):
                several = f", or one for each of {len(self.cameras)} cameras" if len(self.cameras) > 1 else ""
                raise ValueError(f"expected {name} to have one value{several}, got {len(values)}")
        for degrees in self.rotation:
            if degrees % 90:
                raise ValueError(f"expected rotation to be 0, 90, 180 or 270, got {degrees}")
        fitting = {OFF: (OFF, "flow", "pose"), "flow": (OFF, "flow"), "depth": (OFF, "pose")}[self.propagate]
        if self.temporal_filter not in fitting:
            raise ValueError(
                f"expected temporal_filter to be one of {', '.join(fitting)} with propagate "
                f"'{self.propagate}', because both follow the same motion, got '{self.temporal_filter}'"
            )

    def each(self, values: tuple[_Value, ...]) -> tuple[_Value, ...]:
        """One value for each camera, of `priorities`, `max_rate`, `rotation` or `body_mask`."""
        return values * (len(self.cameras) if len(values) == 1 else 1)


def node_options() -> dict[str, Option]:
    """The node's parameters, by name: first those that are fixed once it runs."""
    groups = (LoadOptions, NodeOptions, SegmenterOptions)
    found = [option for group in groups for option in declared(group).values() if option.node]
    return {option.name: option for option in sorted(found, key=lambda option: option.live)}


def parameter_file() -> str:
    """`config/ovs.yaml`: every parameter of the node with its default."""
    lines = [
        "# The node's parameters with their defaults. Give a copy to the launch file as params_file.",
        "# Made from ovs_ros/options.py by `python -m ovs_ros.options`.",
        "/**:",
        "  ros__parameters:",
    ]
    options = node_options().values()
    for live, what in ((False, "Fixed while the node runs."), (True, "Can change while the node runs.")):
        lines += ["", f"    # {what}"] if live else [f"    # {what}"]
        for option in options:
            if option.live == live:
                lines += [f"    # {line}" for line in wrap(option.text, 100)]
                lines.append(f"    {option.name}: {_in_yaml(option.default)}")
    return "\n".join(lines) + "\n"


def parameter_table() -> str:
    """The docs' table of the node's parameters, in Markdown."""
    rows = ["| name | default | can change | what |", "|---|---|---|---|"]
    for option in node_options().values():
        live = "yes" if option.live else ""
        rows.append(f"| `{option.name}` | `{_in_yaml(option.default)}` | {live} | {option.text} |")
    return "\n".join(rows) + "\n"


def written(checkout: Path) -> dict[Path, str]:
    """The text of each file of a checkout that is made from the options."""
    page = checkout / "docs" / "guide" / "parameters.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(TABLE_START)
    table = f"{TABLE_START}\n{parameter_table()}{TABLE_END}{rest.partition(TABLE_END)[2]}"
    return {checkout / "config" / "ovs.yaml": parameter_file(), page: before + table}


def _in_yaml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(_in_yaml(item) for item in value)}]"
    # YAML reads off as false, and nothing as null.
    return f'"{value}"' if value in (OFF, "") else str(value)


if __name__ == "__main__":
    for path, text in written(Path(__file__).parents[1]).items():
        path.write_text(text, encoding="utf-8")
        print(path)
