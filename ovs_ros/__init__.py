"""Open-vocabulary semantic segmentation for robots that see in a stream.

The two names most people need are importable from here::

    from ovs_ros import Segmenter, Vocabulary
"""

import os
from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

# A source checkout and a colcon install space share this package name: the generated
# ovs_ros.msg and ovs_ros.srv live in the latter.
__path__ = extend_path(__path__, __name__)

# Before anything imports ONNX Runtime: from 1.29 on it writes a device id and looks up a telemetry host.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
__all__ = ["Segmenter", "Vocabulary", "__version__"]

if TYPE_CHECKING:
    from ovs_ros.segmenter import Segmenter
    from ovs_ros.vocabulary.vocabulary import Vocabulary


def __getattr__(name: str) -> Any:
    # Lazy, so that importing the generated messages does not load ONNX Runtime.
    if name == "Segmenter":
        from ovs_ros.segmenter import Segmenter

        return Segmenter
    if name == "Vocabulary":
        from ovs_ros.vocabulary.vocabulary import Vocabulary

        return Vocabulary
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
