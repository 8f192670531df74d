"""Open-vocabulary semantic segmentation for ROS 2 cameras and for Python.

The public names::

    import ovs_ros

    segmenter = ovs_ros.load("stream")
    words = segmenter.embed(ovs_ros.Vocabulary.from_names(["floor", "wall", "chair"]))
    result = segmenter.segment(image, words)  # image: (H, W, 3) uint8 RGB
    picture = ovs_ros.overlay(image, result.labels, result.vocabulary)
"""

import os
from importlib import import_module
from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

# A source checkout and a colcon install space share this package name: the generated
# ovs_ros.msg and ovs_ros.srv live in the latter.
__path__ = extend_path(__path__, __name__)

# Before anything imports ONNX Runtime: from 1.29 on it writes a device id and looks up a telemetry host.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
__all__ = [
    "Segmentation",
    "Segmenter",
    "SegmenterOptions",
    "Vocabulary",
    "__version__",
    "load",
    "load_vocabulary",
    "overlay",
]

# Eager, and cheap: the function must come after its module of the same name, or the module would hide it.
from ovs_ros.load import load

if TYPE_CHECKING:
    from ovs_ros.options import SegmenterOptions
    from ovs_ros.render import overlay
    from ovs_ros.segmenter import Segmenter
    from ovs_ros.steps.segmentation import Segmentation
    from ovs_ros.vocabulary.vocabulary import Vocabulary
    from ovs_ros.vocabulary.yaml_io import load_vocabulary

_HOMES = {
    "Segmentation": "ovs_ros.steps.segmentation",
    "Segmenter": "ovs_ros.segmenter",
    "SegmenterOptions": "ovs_ros.options",
    "Vocabulary": "ovs_ros.vocabulary.vocabulary",
    "load_vocabulary": "ovs_ros.vocabulary.yaml_io",
    "overlay": "ovs_ros.render",
}


def __getattr__(name: str) -> Any:
    # Lazy, so that importing the generated messages does not load ONNX Runtime.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
